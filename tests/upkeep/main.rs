//! What keeps the repository in order works: the tools on machines that lack something, what is published of a
//! release, and the files that only the forge reads.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    reason = "tests fail by panicking"
)]

mod deny;
mod forge;
mod newest_rust;
mod release;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Python itself, which needs nothing of PATH, as a script that looks for it would.
fn python() -> PathBuf {
    let mut ask = Command::new("python3");
    let response = ask.args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    PathBuf::from(printed(&response))
}

fn printed(response: &Output) -> String {
    String::from_utf8_lossy(&response.stdout).trim_end().to_owned()
}

fn said(response: &Output) -> String {
    String::from_utf8_lossy(&response.stderr).into_owned()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// An empty folder for a test's own files.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("upkeep").join(name);
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
