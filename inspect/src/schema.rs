//! The JSON schema of an inspection: what `rehost inspect --json` prints, for whoever reads it.
//!
//! JSON Schema 2020-12, made from the types themselves. docs/inspection.schema.json is this, written by
//! scripts/generate. Its version is [`SCHEMA`]: fields may be added to a version, and none changes its
//! meaning in it. `rehost inspect` adds the machine as `vm`.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::findings::catalogue::CATALOGUE;
use crate::model::{Inspection, SCHEMA};

/// The schema.
#[must_use]
pub fn inspection_schema() -> Value {
    let generator = SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator();
    let mut schema = generator.into_root_schema_for::<Inspection>().to_value();
    let names: Vec<Value> = CATALOGUE
        .iter()
        .map(|kind| json!({ "const": kind.id, "description": kind.meaning }))
        .collect();
    if let Some(id) = schema.pointer_mut("/$defs/Finding/properties/id") {
        *id = json!({
            "description": "Stable name, for policies.",
            "type": "string",
            "oneOf": names,
        });
    }
    if let Some(version) = schema.pointer_mut("/properties/schema") {
        *version = json!({ "description": "The version of this shape.", "const": SCHEMA });
    }
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), json!("What rehost found on disks"));
        root.insert(
            "$id".to_owned(),
            json!(format!("urn:{}", SCHEMA.replace(['.', '/'], ":"))),
        );
    }
    schema
}
