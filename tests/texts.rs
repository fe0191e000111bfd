//! The texts with known numbers of tokens in `tests/fixtures/texts`: what the numbers speak of is there.

#![cfg(not(target_arch = "wasm32"))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests fail by panicking"
)]

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const KINDS: [&str; 5] = ["chinese", "code", "english", "json", "russian"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/texts")
}

fn counts() -> Value {
    serde_json::from_slice(&fs::read(folder().join("counts.json")).unwrap()).unwrap()
}

/// File, bytes and tokens of each prompt of a kind.
fn prompts(counts: &Value, kind: &str) -> Vec<(String, String, u64)> {
    let rows = counts["prompts"][kind].as_array().unwrap();
    let prompt = |row: &Value| {
        let number = |column: usize| usize::try_from(row[column].as_u64().unwrap()).unwrap();
        let file = row[0].as_str().unwrap().to_owned();
        let text = fs::read_to_string(folder().join(&file)).unwrap();
        let part = text.get(number(1)..number(1) + number(2)).unwrap().to_owned();
        (file, part, row[3].as_u64().unwrap())
    };
    rows.iter().map(prompt).collect()
}

#[test]
fn every_prompt_is_whole_text_of_its_kind_with_a_plausible_count() {
    let counts = counts();
    for kind in KINDS {
        let prompts = prompts(&counts, kind);
        assert_eq!(prompts.len(), 200, "{kind}");
        for (file, part, tokens) in prompts {
            assert!(file.starts_with(&format!("{kind}/")), "{file}");
            assert!((800..=12_010).contains(&part.len()), "{file}: {} bytes", part.len());
            let bytes_per_hundred_tokens = part.len() as u64 * 100 / tokens;
            assert!((250..=1_000).contains(&bytes_per_hundred_tokens), "{file}: {tokens}");
        }
    }
}

#[test]
fn the_numbers_name_their_source() {
    let counts = counts();
    for (member, value) in
        [("crate", "bpe-openai"), ("version", "0.3.2"), ("encoding", "o200k_base")]
    {
        assert_eq!(counts["tokenizer"][member], value);
    }
}

#[test]
fn every_text_is_used_has_its_licence_and_all_are_small_together() {
    let (counts, readme) = (counts(), fs::read_to_string(folder().join("README.md")).unwrap());
    let used: BTreeSet<String> = KINDS
        .iter()
        .flat_map(|kind| prompts(&counts, kind).into_iter().map(|(file, _, _)| file))
        .collect();
    let mut bytes = fs::metadata(folder().join("counts.json")).unwrap().len();
    for kind in KINDS {
        for entry in fs::read_dir(folder().join(kind)).unwrap() {
            let path = entry.unwrap().path();
            let file = format!("{kind}/{}", path.file_name().unwrap().to_str().unwrap());
            assert!(used.contains(&file), "{file} is not used");
            assert!(readme.contains(&format!("`{file}`")), "{file} has no licence");
            bytes += fs::metadata(&path).unwrap().len();
        }
    }
    assert!(bytes < 400_000, "{bytes}");
}
