//! The rules of the house that neither compiler, clippy nor rustfmt know: who may name whom, how long a file may
//! get, what is not called, and that nothing refers to what is not there.
//!
//! Each rule is a function over files, so that its own tests show it broken ones. What it finds names file and line,
//! what is wrong, and what to do.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    reason = "tests fail by panicking"
)]

mod calls;
mod length;
mod references;
mod rooms;

use std::fs;
use std::path::Path;

/// A text file of the repository.
struct File {
    /// From the root of the repository, with `/`.
    path: String,
    text: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    fn is_below(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }

    /// What is after the last dot; the empty text for the programs in `tools` and for `Makefile`.
    fn extension(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    /// The lines with their numbers, which begin at 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    fn finding(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

/// Everything that people write. What tests compare byte for byte is not read, nor is what is generated.
fn repository() -> Vec<File> {
    const LEFT_OUT: [&str; 8] = [
        ".git", // a file, in a second worktree
        "target",
        "node_modules",
        "__pycache__",
        "tests/fixtures",
        "tests/config",
        "Cargo.lock",
        "LICENSE",
    ];
    let mut files = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = format!("{folder}{name}");
            if LEFT_OUT.contains(&&*name) || LEFT_OUT.contains(&&*path) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                // Folders of editors and environments are nobody's but their owner's.
                if name.starts_with('.') && ![".ci", ".github"].contains(&&*name) {
                    continue;
                }
                folders.push(path + "/");
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                files.push(File { path, text });
            }
        }
    }
    assert!(files.len() > 200, "only {} files were found", files.len());
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Fails with everything that a rule found.
fn assert_tidy(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// Fails unless a rule finds exactly these places.
fn assert_found(findings: &[String], places: &[&str]) {
    let found: Vec<&str> =
        findings.iter().map(|finding| finding.split(": ").next().unwrap_or_default()).collect();
    assert_eq!(found, places, "{findings:#?}");
}
