//! Sets of HTTP statuses: `429`, `"500-599"`, `"5xx"`, and API Management's `{"min": 500, "max": 599}`.

use super::json::Json;
use super::reader::Node;

/// The most entries of one list.
const ENTRIES_MAX: usize = 32;

const LOWEST: u16 = 100;
const HIGHEST: u16 = 599;

const ALLOWED: &str =
    "statuses (429), ranges (\"500-599\") and classes (\"5xx\") within 100 to 599";

/// The server errors: class 5xx.
pub(super) const SERVER_ERRORS: (u16, u16) = (500, 599);

/// The ranges of a list of statuses; it may be empty.
pub(super) fn ranges(node: &Node<'_>) -> Option<Vec<(u16, u16)>> {
    node.list(0..=ENTRIES_MAX, "statuses", range)
}

fn range(node: &Node<'_>) -> Option<(u16, u16)> {
    match node.json() {
        Json::Object(_) => min_max(node),
        Json::Text(text) => checked(node, parse(text)),
        Json::Number(number) => checked(node, parse(&number.to_string())),
        _ => checked(node, None),
    }
}

fn min_max(node: &Node<'_>) -> Option<(u16, u16)> {
    node.object(|fields| {
        let min = fields.required("min", |n| n.whole(LOWEST..=HIGHEST));
        let max = fields.required("max", |n| n.whole(LOWEST..=HIGHEST));
        let (min, max) = (min?, max?);
        if min > max {
            fields.problem(format!("min {min} is above max {max}"));
        }
        Some((min, max))
    })
}

fn checked(node: &Node<'_>, range: Option<(u16, u16)>) -> Option<(u16, u16)> {
    let found = range.filter(|(low, high)| LOWEST <= *low && low <= high && *high <= HIGHEST);
    if found.is_none() {
        node.expected(ALLOWED);
    }
    found
}

fn parse(text: &str) -> Option<(u16, u16)> {
    if let Some(class) = text.strip_suffix("xx") {
        let hundreds = status(class)?.checked_mul(100)?;
        return Some((hundreds, hundreds.checked_add(99)?));
    }
    match text.split_once('-') {
        Some((low, high)) => Some((status(low)?, status(high)?)),
        None => status(text).map(|status| (status, status)),
    }
}

/// Digits only: `parse` alone would take a sign.
fn status(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn statuses_ranges_and_classes_are_ranges() {
        assert_eq!(parse("429"), Some((429, 429)));
        assert_eq!(parse("500-599"), Some((500, 599)));
        assert_eq!(parse("5xx"), Some((500, 599)));
    }

    #[test]
    fn anything_else_is_no_status() {
        for text in ["", "xx", "-", "500-", "-599", "+429", "5xxx", "5x", "1-2-3", "99999", "5 xx"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
