//! Prints the JSON schema of an inspection; scripts/generate keeps it in docs.

fn main() -> Result<(), serde_json::Error> {
    println!(
        "{}",
        serde_json::to_string_pretty(&rehost_inspect::inspection_schema())?
    );
    Ok(())
}
