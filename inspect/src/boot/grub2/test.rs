//! GRUB's `[ … ]`: strings, numbers, files, `!`, `-a` and `-o`.

use super::run::Machine;

/// Whether the expression holds. `-o` binds weaker than `-a`, as in GRUB.
pub(super) fn holds(machine: &Machine<'_>, words: &[String]) -> bool {
    words.split(|word| word == "-o").any(|part| {
        part.split(|word| word == "-a")
            .all(|term| single(machine, term))
    })
}

fn single(machine: &Machine<'_>, words: &[String]) -> bool {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let negations = words.iter().take_while(|word| **word == "!").count();
    let holds = plain(machine, words.get(negations..).unwrap_or_default());
    holds != (negations % 2 == 1)
}

fn plain(machine: &Machine<'_>, words: &[&str]) -> bool {
    match words {
        [] => false,
        [text] => !text.is_empty(),
        ["-z", text] => text.is_empty(),
        ["-n", text] => !text.is_empty(),
        ["-e" | "-f" | "-d", path] => size(machine, path).is_some(),
        ["-s", path] => size(machine, path).is_some_and(|size| size > 0),
        [left, operator, right] => compare(left, operator, right),
        _ => false,
    }
}

fn size(machine: &Machine<'_>, path: &str) -> Option<u64> {
    let at = machine.device_path(path);
    machine.world.size(&at.device, &at.path)
}

fn compare(left: &str, operator: &str, right: &str) -> bool {
    let number = |text: &str| text.trim().parse::<i64>().unwrap_or_default();
    match operator {
        "=" | "==" => left == right,
        "!=" => left != right,
        "<" => left < right,
        ">" => left > right,
        "<=" => left <= right,
        ">=" => left >= right,
        "-eq" => number(left) == number(right),
        "-ne" => number(left) != number(right),
        "-lt" => number(left) < number(right),
        "-le" => number(left) <= number(right),
        "-gt" => number(left) > number(right),
        "-ge" => number(left) >= number(right),
        _ => false,
    }
}
