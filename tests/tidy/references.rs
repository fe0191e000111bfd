//! Nothing refers to what is not there: a path that was moved, a heading that was reworded, a paper that only its
//! authors have. `tests/documents.rs` looks at what documents say of code; this looks at the rest.

use super::{File, assert_found, assert_tidy, repository, root};

/// What only somebody could look up who has a paper that is not in the repository.
const PAPERS: [&str; 8] = [
    "the design",
    "of design",
    "(design",
    "(facts ",
    "facts/",
    "fn item_",
    "see issue",
    "structure.md",
];
/// Words that contain one and mean something else.
const INNOCENT: [&str; 2] = ["artefacts/", "the designer"];

/// This file names what it forbids.
const ITSELF: &str = "tests/tidy/references.rs";

#[test]
fn nothing_refers_to_a_paper_that_is_not_here() {
    assert_tidy(&repository().iter().flat_map(papers).collect::<Vec<_>>());
}

#[test]
fn every_path_in_a_comment_exists() {
    let folders = folders();
    let exists = |path: &str| root().join(path).exists();
    let files = repository();
    assert_tidy(&files.iter().flat_map(|file| paths(file, &folders, exists)).collect::<Vec<_>>());
}

#[test]
fn every_link_leads_to_a_heading() {
    assert_tidy(&headings(&repository()));
}

#[test]
fn every_decision_is_in_the_list_once() {
    let files = repository();
    let list = files.iter().find(|file| file.path == "docs/decisions/README.md").unwrap();
    assert_tidy(&decisions(list, &files));
}

fn papers(file: &File) -> Vec<String> {
    if file.path == ITSELF {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in file.lines() {
        let line = INNOCENT.iter().fold(line.to_lowercase(), |line, word| line.replace(word, ""));
        for paper in PAPERS.iter().filter(|paper| line.contains(**paper)) {
            let what =
                format!("\"{paper}\" refers to what is not here: say it, or name a page in docs/");
            findings.push(file.finding(number, &what));
        }
    }
    findings
}

/// The folders of the repository with `/`: what begins with one is a path.
fn folders() -> Vec<String> {
    let entries = std::fs::read_dir(root()).unwrap().map(Result::unwrap);
    let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    folders
        .map(|folder| folder.file_name().into_string().unwrap() + "/")
        .filter(|folder| folder != "target/" && folder != ".git/")
        .collect()
}

/// The comment of a line, or all of it in prose.
fn comment<'a>(file: &File, line: &'a str) -> &'a str {
    let sign = match file.extension() {
        // Only templates: the documents have their own test, which reads what is in backticks.
        "md" if file.path.starts_with(".github/") => return line,
        "yml" if file.path.starts_with(".github/ISSUE_TEMPLATE") => return line,
        "rs" => "//",
        "py" | "toml" | "yaml" | "yml" | "editorconfig" | "" => "#",
        _ => return "",
    };
    line.find(sign).map_or("", |at| &line[at + sign.len()..])
}

fn paths(file: &File, folders: &[String], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in file.lines().filter(|_| file.path != ITSELF) {
        let words = comment(file, line)
            .split(|found: char| !(found.is_alphanumeric() || "./_-*<{".contains(found)));
        for word in words {
            let path = word.trim_end_matches(['.', '-']);
            let is_path = folders
                .iter()
                .any(|folder| path.starts_with(&**folder) && path.len() > folder.len());
            if !is_path || path.contains(['*', '<', '{']) || path.contains("/target/") {
                continue;
            }
            // From the root, or from a folder around the file, as the members of the workspace say it.
            let around = file.path.match_indices('/').map(|(at, _)| &file.path[..=at]);
            if !around.chain([""]).any(|folder| exists(&format!("{folder}{path}"))) {
                findings.push(
                    file.finding(number, &format!("{path} is not there: name the file that is")),
                );
            }
        }
    }
    findings
}

fn headings(files: &[File]) -> Vec<String> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.extension() == "md") {
        for (number, line) in file.lines() {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let Some((path, anchor)) = target.split_once('#') else { continue };
                if target.contains("://") || anchor.is_empty() {
                    continue;
                }
                let path =
                    if path.is_empty() { file.path.clone() } else { beside(&file.path, path) };
                let Some(other) = files.iter().find(|other| other.path == path) else { continue };
                if !anchors(&other.text).any(|known| known == anchor) {
                    let what = format!("{path} has no heading #{anchor}: name one that it has");
                    findings.push(file.finding(number, &what));
                }
            }
        }
    }
    findings
}

/// The path of a link that stands in the file `from`.
fn beside(from: &str, link: &str) -> String {
    let mut path: Vec<&str> = from.split('/').collect();
    path.pop();
    for part in link.split('/') {
        match part {
            ".." => drop(path.pop()),
            "." => {}
            name => path.push(name),
        }
    }
    path.join("/")
}

/// What the headings of a document are called in links.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let mut is_code = false;
    let headings = text.lines().filter(move |line| {
        is_code ^= line.trim_start().starts_with("```");
        !is_code && line.starts_with('#')
    });
    headings.map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|found| found.is_alphanumeric() || " -_".contains(*found));
        kept.map(|found| if found == ' ' { '-' } else { found }).collect()
    })
}

fn decisions(list: &File, files: &[File]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut numbers: Vec<&str> = Vec::new();
    for file in files
        .iter()
        .filter(|file| file.path.starts_with("docs/decisions/") && file.path != list.path)
    {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let number = name.split('-').next().unwrap_or_default();
        if numbers.contains(&number) {
            findings.push(file.finding(1, "another decision has this number: take the next one"));
        }
        numbers.push(number);
        if list.text.matches(&format!("]({name})")).count() != 1 {
            findings.push(file.finding(1, &format!("give it one line in {}", list.path)));
        }
    }
    findings
}

#[test]
fn a_paper_that_is_not_here_is_found() {
    let text = "// As (design, section 4) has it.\n// The artefacts/ of a build.\n/// The words of the Design.\n";
    assert_found(&papers(&File::new("src/a.rs", text)), &["src/a.rs:1", "src/a.rs:3"]);
}

#[test]
fn a_path_that_is_not_there_is_found_in_comments() {
    let folders = ["src/".to_owned(), "tools/".to_owned()];
    let exists = |path: &str| ["src/a.rs", "bench/src/b.rs", "tools/envoy"].contains(&path);
    let find = |path: &str, text: &str| paths(&File::new(path, text), &folders, exists);
    assert_found(&find("src/x.rs", "//! See `src/a.rs`, and src/gone.rs.\n"), &["src/x.rs:1"]);
    assert_found(&find("src/x.rs", "let x = \"src/gone.rs\"; // src/*.rs, src/<name>\n"), &[]);
    assert_found(&find("bench/src/x.rs", "// src/b.rs\n"), &[]);
    assert_found(&find("Makefile", "# tools/envoy and tools/gone\n"), &["Makefile:1"]);
    assert_found(&find(".github/a.md", "tools/gone\n"), &[".github/a.md:1"]);
}

#[test]
fn a_link_to_a_heading_that_is_not_there_is_found() {
    let files = [
        File::new("docs/a.md", "# Who is to blame?\n```\n# no heading\n```\n## `x_y` of 2\n"),
        File::new(
            "README.md",
            "[1](docs/a.md#who-is-to-blame) [2](docs/a.md#no-heading)\n[3](#here)\n",
        ),
        File::new("docs/b.md", "[1](a.md#x_y-of-2)\n[2](../docs/a.md#gone)\n"),
    ];
    assert_found(&headings(&files), &["README.md:1", "README.md:2", "docs/b.md:2"]);
}

#[test]
fn a_decision_that_the_list_lacks_and_a_number_that_two_have_are_found() {
    let list = File::new("docs/decisions/README.md", "[0001](0001-a.md)\n[0002](0002-b.md)\n");
    let pages = ["0001-a", "0002-b", "0002-c"]
        .map(|name| File::new(&format!("docs/decisions/{name}.md"), "x\n"));
    let found = ["docs/decisions/0002-c.md:1"; 2];
    assert_found(&decisions(&list, &pages), &found);
}
