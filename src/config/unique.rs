//! Names that must be unique in the whole configuration, and names that are numbered across it.

use super::reader::Node;
use std::collections::BTreeMap;

/// Claims of names that only one place may have.
#[derive(Default)]
pub(super) struct Unique {
    /// The place of each claimed name.
    claims: BTreeMap<String, String>,
}

impl Unique {
    /// Claims `name` for the value at `node` and returns it; a second claim is a problem that names the first.
    pub(super) fn claim(&mut self, node: &Node<'_>, name: String) -> Option<String> {
        if let Some(place) = self.earlier_claim(node, &name) {
            node.problem(format!("found {name:?}, which {place} has already"));
            return None;
        }
        Some(name)
    }

    /// Claims `name` for the value at `node`, unless there is an earlier claim: then its place.
    pub(super) fn earlier_claim(&mut self, node: &Node<'_>, name: &str) -> Option<String> {
        if let Some(place) = self.claims.get(name) {
            return Some(place.clone());
        }
        self.claims.insert(name.to_owned(), node.path().to_owned());
        None
    }
}

/// Names numbered by their first appearance.
#[derive(Default)]
pub(super) struct Numbering {
    names: Vec<String>,
}

impl Numbering {
    /// The number of `name`; `None` beyond 65,536 names.
    pub(super) fn number(&mut self, name: String) -> Option<u16> {
        let known = self.names.iter().position(|known| *known == name);
        let position = known.unwrap_or_else(|| {
            self.names.push(name);
            self.names.len().saturating_sub(1)
        });
        u16::try_from(position).ok()
    }
}

/// What is kept from one pool or backend to the next.
#[derive(Default)]
pub(super) struct TakenNames {
    pub(super) pools: Unique,
    pub(super) backends: Unique,
    pub(super) models: Unique,
    pub(super) quota_groups: Numbering,
    /// Backends that share a default variable would share a key although nobody asked for it.
    pub(super) default_variables: Unique,
}
