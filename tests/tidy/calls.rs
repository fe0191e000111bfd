//! What is not written, though it compiles, and what each test of the core must have.

use super::{File, assert_found, assert_tidy, repository};

/// A text that does not stand in some files.
struct Rule {
    /// Any of these.
    texts: &'static [&'static str],
    /// Where: files whose path begins so.
    folders: &'static [&'static str],
    /// Files that may have it; one that does not have it any more is an error.
    except: &'static [&'static str],
    /// Why not, and what to do instead.
    instead: &'static str,
}

const CORE: [&str; 3] = ["src/config/", "src/openai/", "src/policy/"];

const RULES: [Rule; 8] = [
    Rule {
        texts: &[
            "std::env",
            "std::fs",
            "std::io",
            "std::process",
            "std::thread",
            "std::time",
            "thread_local!",
        ],
        folders: &CORE,
        except: &[],
        instead: "the core knows no machine: take what it needs as an argument",
    },
    Rule {
        texts: &["std::fs", "std::thread", "std::time", "static mut"],
        folders: &["src/filter/"],
        except: &[],
        instead: "a filter has neither files nor threads nor a clock of its own: ask the host",
    },
    Rule {
        texts: &["std::process"],
        folders: &["src/filter/"],
        except: &["src/filter/gateway/mod.rs"], // the feature `trap`, for measurements only
        instead: "whoever ends the module ends every stream of the worker: return an error",
    },
    Rule {
        texts: &["println!", "print!", "dbg!"],
        folders: &["src/"],
        except: &[],
        instead: "nobody sees it: log through the host",
    },
    Rule {
        texts: &["thread::sleep"],
        folders: &["src/", "tests/", "mock-azure/"],
        except: &[],
        instead: "a test that sleeps is slow or fails on a busy machine: await the condition",
    },
    Rule {
        texts: &["#[ignore"],
        folders: &["src/", "tests/", "mock-azure/", "testbed/", "demo/", "bench/", "simulator/"],
        except: &["tests/end_to_end/traps.rs"], // needs a module that traps on purpose
        instead: "nobody runs it: repair it, or remove it",
    },
    Rule {
        texts: &["fn get_"],
        folders: &["src/", "tests/", "mock-azure/", "testbed/", "demo/", "bench/", "simulator/"],
        except: &["src/filter/host/contexts.rs"], // get_mut, as the collections have it
        instead: "say what it is: a noun without get_",
    },
    Rule {
        texts: &["TODO", "FIXME", "XXX"],
        folders: &[""],
        except: &[],
        instead: "nobody comes back to it: do it now, or open an issue",
    },
];

/// This file names what it forbids.
const ITSELF: &str = "tests/tidy/calls.rs";

#[test]
fn nothing_is_called_that_the_house_does_without() {
    assert_tidy(&RULES.iter().flat_map(|rule| violations(rule, &repository())).collect::<Vec<_>>());
}

fn violations(rule: &Rule, files: &[File]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut spared: Vec<&str> = Vec::new();
    for file in files.iter().filter(|file| file.is_below(rule.folders) && file.path != ITSELF) {
        for (number, line) in file.lines() {
            let Some(text) = rule.texts.iter().find(|text| line.contains(**text)) else { continue };
            if rule.except.contains(&&*file.path) {
                spared.push(&file.path);
            } else {
                findings.push(file.finding(number, &format!("{text}: {}", rule.instead)));
            }
        }
    }
    for path in rule.except.iter().filter(|path| !spared.contains(path)) {
        findings.push(format!("{path}:0: does not need its exception: take it out of {ITSELF}"));
    }
    findings
}

/// Without the line, a test of the core is not run on wasm32, and nobody notices.
#[test]
fn every_test_of_the_core_runs_on_wasm32_too() {
    assert_tidy(&repository().iter().flat_map(native_tests).collect::<Vec<_>>());
}

fn native_tests(file: &File) -> Option<String> {
    let (first, _) = file.lines().find(|(_, line)| line.trim() == "#[test]")?;
    let what = "tests that run natively only: begin their module as CONTRIBUTING.md says";
    let is_native = file.is_below(&CORE)
        && !file.text.contains("use wasm_bindgen_test::wasm_bindgen_test as test;");
    is_native.then(|| file.finding(first, what))
}

#[test]
fn what_is_forbidden_is_found_where_it_is_forbidden() {
    let rule =
        Rule { texts: &["std::fs"], folders: &["src/"], except: &["src/b.rs"], instead: "x" };
    let files = [
        File::new("src/a.rs", "x\nuse std::fs;\n"),
        File::new("src/b.rs", "use std::fs;\n"),
        File::new("tests/c.rs", "use std::fs;\n"),
    ];
    assert_found(&violations(&rule, &files), &["src/a.rs:2"]);
}

#[test]
fn an_exception_that_is_not_needed_is_found() {
    let rule =
        Rule { texts: &["std::fs"], folders: &["src/"], except: &["src/b.rs"], instead: "x" };
    assert_found(&violations(&rule, &[File::new("src/b.rs", "x\n")]), &["src/b.rs:0"]);
}

#[test]
fn a_native_test_of_the_core_is_found() {
    let test = "#[test]\nfn it_works() {}\n";
    assert!(native_tests(&File::new("src/policy/a.rs", test)).is_some());
    assert!(native_tests(&File::new("src/filter/a.rs", test)).is_none());
    let both = format!("use wasm_bindgen_test::wasm_bindgen_test as test;\n{test}");
    assert!(native_tests(&File::new("src/policy/a.rs", &both)).is_none());
}
