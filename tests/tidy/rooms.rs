//! Who may name whom in `src`: no arrow runs back up.
//!
//! The source is a house of four floors, and a floor may have rooms: its folders, and files that stand for one. The
//! table is the whole order. The compiler holds a part of it (the core builds without the filter), and nothing else
//! holds the rest.

use super::{File, assert_found, assert_tidy, repository};

struct Floor {
    name: &'static str,
    /// The floors that it may name.
    names: &'static [&'static str],
    /// Its rooms from the top: each may name those behind it in this list, and none before it. A file that is no room
    /// belongs to the floor as a whole, and is not looked at.
    rooms: &'static [&'static str],
}

const FLOORS: [Floor; 4] = [
    Floor {
        name: "filter",
        names: &["config", "policy", "openai"],
        rooms: &["root", "attempt", "gateway", "request", "pool", "host"],
    },
    Floor { name: "config", names: &["policy", "openai"], rooms: &[] },
    Floor {
        name: "policy",
        names: &[],
        rooms: &["tests", "failover", "choice", "backend", "response", "tokens"],
    },
    Floor { name: "openai", names: &[], rooms: &["response", "request", "call"] },
];

#[test]
fn no_floor_and_no_room_names_one_above_it() {
    assert_tidy(&upward(&repository(), &FLOORS));
}

/// A rule that reads nothing finds nothing.
#[test]
fn what_the_filter_names_of_the_core_is_read() {
    let filter = repository().into_iter().filter(|file| file.is_below(&["src/filter/"]));
    let names: usize = filter
        .map(|file| {
            let names = named(&file.text, &module(&file.path).unwrap_or_default());
            names
                .iter()
                .filter(|(_, named)| named.first().is_some_and(|name| name == "policy"))
                .count()
        })
        .sum();
    assert!(names > 50, "only {names} names");
}

#[test]
fn every_floor_and_every_room_is_in_the_table() {
    assert_tidy(&strangers(&repository(), &FLOORS));
}

/// Names that run up.
fn upward(files: &[File], floors: &[Floor]) -> Vec<String> {
    let mut findings = Vec::new();
    for file in files {
        let Some(module) = module(&file.path) else { continue };
        // The root of the crate names every floor.
        let Some(floor) =
            floors.iter().find(|floor| module.first().is_some_and(|name| name == floor.name))
        else {
            continue;
        };
        let rank = |module: &[String]| {
            floor.rooms.iter().position(|room| module.get(1).is_some_and(|name| name == room))
        };
        for (line, named) in named(&file.text, &module) {
            let Some(other) =
                floors.iter().find(|other| named.first().is_some_and(|name| name == other.name))
            else {
                continue;
            };
            if other.name != floor.name {
                if !floor.names.contains(&other.name) {
                    let what = format!(
                        "`{}` does not name `{}`: move what both need down",
                        floor.name, other.name
                    );
                    findings.push(file.finding(line, &what));
                }
            } else if let (Some(here), Some(there)) = (rank(&module), rank(&named))
                && there < here
            {
                let what = format!(
                    "`{}` is below `{}` in tests/tidy/rooms.rs and does not name it: move what both need down",
                    floor.rooms[here], floor.rooms[there]
                );
                findings.push(file.finding(line, &what));
            }
        }
    }
    findings
}

/// What the table does not name, and what it names though it is not there.
fn strangers(files: &[File], floors: &[Floor]) -> Vec<String> {
    let table = "tests/tidy/rooms.rs";
    let mut findings = Vec::new();
    let modules: Vec<(&File, Vec<String>)> =
        files.iter().filter_map(|file| Some((file, module(&file.path)?))).collect();
    for (file, module) in &modules {
        let floor =
            floors.iter().find(|floor| module.first().is_some_and(|name| name == floor.name));
        match (floor, module.as_slice()) {
            (_, []) => {}
            (None, [name, ..]) => {
                findings.push(
                    file.finding(1, &format!("`{name}` is no floor: give it a line in {table}")),
                );
            }
            (Some(floor), [_, room])
                if file.path.ends_with("/mod.rs") && !floor.rooms.contains(&&**room) =>
            {
                findings.push(
                    file.finding(1, &format!("`{room}` is no room: give it its place in {table}")),
                );
            }
            _ => {}
        }
    }
    for floor in floors {
        let is_there = |room: Option<&str>| {
            modules.iter().any(|(_, module)| {
                module.first().is_some_and(|name| name == floor.name)
                    && room.is_none_or(|room| module.get(1).is_some_and(|name| name == room))
            })
        };
        for gone in
            floor.rooms.iter().copied().map(Some).chain([None]).filter(|room| !is_there(*room))
        {
            let name = gone.unwrap_or(floor.name);
            findings.push(format!(
                "{table}:1: `{name}` of `{}` is not there: take it out of the table",
                floor.name
            ));
        }
    }
    findings
}

/// The module that a file of `src` is: none for other files, nothing for the root of the crate.
fn module(path: &str) -> Option<Vec<String>> {
    let inside = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let mut module: Vec<String> = inside.split('/').map(str::to_owned).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
        module.pop();
    }
    Some(module)
}

/// Every path that a source names from the root of the crate, with its line. Comments are left out.
fn named(text: &str, module: &[String]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    // Modules within the file, each with the indentation at which it ends. rustfmt keeps this true.
    let mut inner: Vec<(usize, String)> = Vec::new();
    let mut statement: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let indentation = line.len() - trimmed.len();
        if trimmed.starts_with("//") || trimmed.is_empty() {
            continue;
        }
        if trimmed == "}" && inner.last().is_some_and(|(at, _)| *at == indentation) {
            inner.pop();
        }
        let here: Vec<String> =
            module.iter().cloned().chain(inner.iter().map(|(_, name)| name.clone())).collect();
        let mut words =
            trimmed.split(' ').skip_while(|word| word.starts_with("pub") || word.ends_with(')'));
        let first = words.next();
        if first == Some("mod") && trimmed.ends_with('{') {
            inner.push((indentation, words.next().unwrap_or_default().to_owned()));
        }
        if first == Some("use") && statement.is_none() {
            let begun = words.collect::<Vec<_>>().join(" ");
            statement = Some((index + 1, begun));
        } else if let Some((_, begun)) = &mut statement {
            begun.push(' ');
            begun.push_str(trimmed);
        } else {
            found.extend(
                inline(line)
                    .into_iter()
                    .filter_map(|path| Some((index + 1, resolve(&path, &here)?))),
            );
        }
        if statement.as_ref().is_some_and(|(_, begun)| begun.contains(';')) {
            let (number, begun) = statement.take().unwrap_or_default();
            let mut leaves = Vec::new();
            let tree: String =
                begun.split(';').next().unwrap_or_default().split_whitespace().collect();
            expand(&tree, &[], &mut leaves);
            found.extend(
                leaves.into_iter().filter_map(|path| Some((number, resolve(&path, &here)?))),
            );
        }
    }
    found
}

/// The paths in a line that begin with `crate` or `super`.
fn inline(line: &str) -> Vec<Vec<String>> {
    let is_name = |found: char| found.is_alphanumeric() || found == '_';
    let mut paths = Vec::new();
    let mut rest = line;
    while let Some(at) = ["crate::", "super::"].iter().filter_map(|start| rest.find(start)).min() {
        let (before, path) = rest.split_at(at);
        let end = path.find(|found: char| !is_name(found) && found != ':').unwrap_or(path.len());
        // `pub(in crate::filter)` says who may see, and names nobody; `mycrate::` is another word.
        if !before.ends_with("in ") && !before.ends_with(is_name) {
            let segments = path[..end].split("::").filter(|segment| !segment.is_empty());
            paths.push(segments.map(str::to_owned).collect());
        }
        rest = &path[end..];
    }
    paths
}

/// The paths of a `use` without white space: `a::{b::{c,d},e}` is three.
fn expand(tree: &str, before: &[String], leaves: &mut Vec<Vec<String>>) {
    let mut path = before.to_vec();
    let (start, group) =
        tree.split_once('{').map_or((tree, None), |(start, group)| (start, Some(group)));
    path.extend(start.split("::").filter(|segment| !segment.is_empty()).map(str::to_owned));
    let Some(group) = group.and_then(|group| group.strip_suffix('}')) else {
        return leaves.push(path);
    };
    let (mut depth, mut begin) = (0_usize, 0);
    for (at, found) in group.char_indices().chain([(group.len(), ',')]) {
        match found {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                if begin < at {
                    expand(&group[begin..at], &path, leaves);
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
}

/// A path from the root of the crate; none for one of another crate.
fn resolve(path: &[String], module: &[String]) -> Option<Vec<String>> {
    let mut resolved: Vec<String> = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" | "super" => module.to_vec(),
        _ => return None,
    };
    for segment in path {
        match segment.as_str() {
            "crate" | "self" => {}
            "super" => drop(resolved.pop()),
            name => resolved.push(name.to_owned()),
        }
    }
    Some(resolved)
}

const HOUSE: [Floor; 2] = [
    Floor { name: "filter", names: &["policy"], rooms: &["gateway", "host"] },
    Floor { name: "policy", names: &[], rooms: &[] },
];

#[test]
fn a_floor_that_names_one_above_it_is_found() {
    let find = |text: &str| upward(&[File::new("src/policy/gate.rs", text)], &HOUSE);
    assert_found(&find("use crate::filter::host;\n"), &["src/policy/gate.rs:1"]);
    assert_found(
        &find("use crate::{\n    policy::time,\n    filter::{host, gateway::X},\n};\n"),
        &["src/policy/gate.rs:1"; 2],
    );
    assert_found(
        &find("fn f() {\n    super::super::filter::host::now();\n}\n"),
        &["src/policy/gate.rs:2"],
    );
    assert_found(&find("// crate::filter is above.\nuse super::time;\nuse filter::x;\n"), &[]);
}

#[test]
fn a_room_that_names_one_above_it_is_found() {
    let find = |path: &str, text: &str| upward(&[File::new(path, text)], &HOUSE);
    assert_found(
        &find("src/filter/host/raw.rs", "use super::super::gateway::X;\n"),
        &["src/filter/host/raw.rs:1"],
    );
    assert_found(
        &find("src/filter/host/mod.rs", "pub(crate) use super::gateway::X;\n"),
        &["src/filter/host/mod.rs:1"],
    );
    assert_found(
        &find("src/filter/host.rs", "use crate::filter::gateway::X;\n"),
        &["src/filter/host.rs:1"],
    );
    assert_found(
        &find("src/filter/gateway/mod.rs", "use super::host::X;\nuse crate::policy::Y;\n"),
        &[],
    );
    assert_found(&find("src/filter/loose.rs", "use super::gateway::X;\n"), &[]);
}

#[test]
fn modules_within_a_file_are_one_step_further_down() {
    let text = "mod abi {\n    mod deep {\n        use super::super::super::gateway::X;\n    }\n    use super::super::gateway::X;\n}\nuse super::gateway::X;\n";
    let found = ["src/filter/host.rs:3", "src/filter/host.rs:5", "src/filter/host.rs:7"];
    assert_found(&upward(&[File::new("src/filter/host.rs", text)], &HOUSE), &found);
    let own =
        "mod tests {\n    use super::gateway::X;\n}\npub(in crate::filter::gateway) fn f() {}\n";
    assert_found(&upward(&[File::new("src/filter/host.rs", own)], &HOUSE), &[]);
}

#[test]
fn a_folder_that_the_table_does_not_name_and_a_line_for_none_are_found() {
    let complete =
        || ["src/lib.rs", "src/policy/mod.rs", "src/filter/gateway.rs", "src/filter/host/mod.rs"];
    let files = |more: &[&str], less: &str| -> Vec<File> {
        let paths = complete().into_iter().chain(more.iter().copied()).filter(|path| *path != less);
        paths.map(|path| File::new(path, "")).collect()
    };
    assert_found(&strangers(&files(&[], ""), &HOUSE), &[]);
    assert_found(
        &strangers(&files(&["src/filter/attic/mod.rs"], ""), &HOUSE),
        &["src/filter/attic/mod.rs:1"],
    );
    assert_found(&strangers(&files(&["src/cellar/mod.rs"], ""), &HOUSE), &["src/cellar/mod.rs:1"]);
    assert_found(
        &strangers(&files(&[], "src/filter/gateway.rs"), &HOUSE),
        &["tests/tidy/rooms.rs:1"],
    );
    assert_found(&strangers(&files(&["src/filter/loose.rs"], ""), &HOUSE), &[]);
}
