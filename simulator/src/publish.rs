//! Publishes the figures: between markers in `docs/routing.md`, and as plots beside it.

use crate::{Outcome, plot, report};
use std::fs;
use std::path::Path;

const BEGIN: &str = "<!-- figures: written by `make simulate` -->";
const END: &str = "<!-- end of figures -->";

/// Writes the figures into the documents.
///
/// # Errors
/// A file cannot be read or written, or lacks its markers.
pub(crate) fn write(outcomes: &[Outcome], seed: u64) -> Result<(), String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let path = docs.join("routing.md");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let figures = format!(
        "Seed {seed}.\n\n{}\n{}",
        report::table(outcomes),
        report::comparison(outcomes).trim_end()
    );
    let text = replaced(&text, &figures).ok_or_else(|| format!("{BEGIN} and {END}: not found"))?;
    fs::write(&path, text).map_err(|error| error.to_string())?;
    for (name, svg) in plot::all(outcomes)? {
        fs::write(docs.join(name), svg).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The text with `figures` between the markers.
fn replaced(text: &str, figures: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{figures}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_replace_what_is_between_the_marks_and_nothing_else() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(replaced(&text, "new"), Some(format!("a\n{BEGIN}\nnew\n{END}\nb\n")));
        assert_eq!(replaced("a", "new"), None);
    }
}
