//! How long files and lines may get, and how lines end.

use super::{File, assert_found, assert_tidy, repository};

/// A file is one idea. One that needs more lines than this has two, and becomes a folder.
const FILE_LINES: usize = 500;

/// Files that are longer, with the most lines that each may have. The list only gets shorter: who finds the second idea
/// in one of them takes it out.
const LONGER: [(&str, usize); 5] = [
    ("src/config/reader.rs", 520),
    ("src/openai/call/tests.rs", 570),
    ("src/openai/request/scan.rs", 600),
    ("src/policy/backend/breaker.rs", 540),
    ("tests/config.rs", 600),
];

/// The most characters of a line, by kind. Code in Rust is rustfmt's; only its comments are ours.
const RUST_COMMENT: usize = 120;
const PROGRAM: usize = 120;
const PROSE: usize = 160;

#[test]
fn files_are_one_idea() {
    assert_tidy(&files(&repository(), &LONGER));
}

#[test]
fn lines_can_be_read_side_by_side() {
    assert_tidy(&repository().iter().flat_map(lines).collect::<Vec<_>>());
}

fn files(files: &[File], longer: &[(&str, usize)]) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, _) in longer {
        if !files.iter().any(|file| file.path == *path) {
            findings.push(format!(
                "{path}:0: is not there: take it out of LONGER in tests/tidy/length.rs"
            ));
        }
    }
    for file in files.iter().filter(|file| matches!(file.extension(), "rs" | "py" | "")) {
        let lines = file.text.lines().count();
        let most = longer.iter().find(|(path, _)| *path == file.path).map(|(_, most)| *most);
        if lines > most.unwrap_or(FILE_LINES) {
            let most = most.unwrap_or(FILE_LINES);
            let what =
                format!("{lines} lines, {most} allowed: give its second idea a file of its own");
            findings.push(file.finding(lines, &what));
        } else if most.is_some() && lines <= FILE_LINES {
            let what = "short enough now: take it out of LONGER in tests/tidy/length.rs";
            findings.push(file.finding(lines, what));
        }
    }
    findings
}

fn lines(file: &File) -> Vec<String> {
    let mut findings = Vec::new();
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        let last = file.text.lines().count();
        findings.push(file.finding(last, "the last line does not end: end it"));
    }
    let mut is_code = false;
    for (number, line) in file.lines() {
        is_code ^= line.trim_start().starts_with("```");
        if line.ends_with([' ', '\t', '\r']) {
            findings.push(file.finding(number, "white space at the end: remove it"));
        }
        if line.contains('\t') && file.extension() != "" {
            findings.push(file.finding(number, "a tab: indent with spaces"));
        }
        let most = match file.extension() {
            "rs" if line.trim_start().starts_with("//") => RUST_COMMENT,
            "py" | "" => PROGRAM,
            // The row of a table is one line, however long, and code has lines of its own.
            "md" if !line.starts_with('|') && !is_code => PROSE,
            _ => continue,
        };
        let length = line.chars().count();
        // What cannot be broken may be long: a link, a path.
        let is_one_word =
            line.trim_start_matches(['/', '!', '#', '-', ' ']).split(' ').count() <= 1;
        if length > most && !is_one_word {
            let what = format!("{length} characters, {most} allowed: break the line");
            findings.push(file.finding(number, &what));
        }
    }
    findings
}

#[test]
fn a_file_that_is_too_long_is_found() {
    let long = File::new("src/a.rs", &"x\n".repeat(FILE_LINES + 1));
    assert_found(&files(&[long], &[]), &["src/a.rs:501"]);
    let fits = File::new("src/a.rs", &"x\n".repeat(FILE_LINES));
    assert_found(&files(&[fits], &[]), &[]);
}

#[test]
fn an_exception_has_an_end_and_is_taken_out_when_it_is_not_needed() {
    let file = |lines| [File::new("src/a.rs", &"x\n".repeat(lines))];
    let longer = [("src/a.rs", 600)];
    assert_found(&files(&file(600), &longer), &[]);
    assert_found(&files(&file(601), &longer), &["src/a.rs:601"]);
    assert_found(&files(&file(500), &longer), &["src/a.rs:500"]);
    assert_found(&files(&[], &longer), &["src/a.rs:0"]);
}

#[test]
fn a_line_that_is_too_long_is_found_where_it_can_be_broken() {
    let long = "word ".repeat(40) + "end";
    for (path, text, found) in [
        ("a.rs", format!("// {long}\n"), true),
        ("a.rs", format!("let x = \"{long}\";\n"), false),
        ("a.md", format!("{long}\n"), true),
        ("a.md", format!("| {long} |\n"), false),
        ("a.md", format!("```\n{long}\n```\n"), false),
        ("tools/a", format!("# {long}\n"), true),
        ("a.rs", format!("//! {}\n", "x".repeat(200)), false),
    ] {
        assert_eq!(!lines(&File::new(path, &text)).is_empty(), found, "{path}: {text}");
    }
}

#[test]
fn what_cannot_be_seen_at_the_end_of_a_line_is_found() {
    assert_found(
        &lines(&File::new("a.rs", "x \ny\t\nz")),
        &["a.rs:3", "a.rs:1", "a.rs:2", "a.rs:2"],
    );
    assert_found(&lines(&File::new("Makefile", "\tx\n")), &[]);
}
