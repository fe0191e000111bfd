//! A request body in any format: how it is read, and what is known about it afterwards.

use super::facts::{BodyFacts, Malformed};
use super::kind::BodyKind;
use super::multipart::MultipartScanner;
use super::scan::JsonScanner;
use crate::openai::call::Call;

/// A body that was read.
#[derive(Clone, Debug)]
pub struct Body {
    /// Its facts.
    pub facts: BodyFacts,
    /// How an edit of it must be written.
    pub kind: BodyKind,
}

/// Reads a body in slices, in constant memory.
#[derive(Debug)]
pub struct BodyScanner {
    kind: BodyKind,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Json(JsonScanner),
    Multipart(MultipartScanner),
}

impl BodyScanner {
    /// For the body of `call`; `None` when nothing in it matters.
    pub fn new(call: &Call, content_type: Option<&[u8]>) -> Option<Box<Self>> {
        let kind = BodyKind::of(call, content_type);
        let format = match &kind {
            BodyKind::Json => Format::Json(JsonScanner::new()),
            BodyKind::Multipart { boundary } => Format::Multipart(MultipartScanner::new(boundary)),
            BodyKind::None | BodyKind::Opaque => return None,
        };
        Some(Box::new(Self { kind, format }))
    }

    /// Reads the next bytes.
    pub fn push(&mut self, slice: &[u8]) {
        match &mut self.format {
            Format::Json(scanner) => scanner.push(slice),
            Format::Multipart(scanner) => scanner.push(slice),
        }
    }

    /// The facts of the body.
    ///
    /// # Errors
    /// [`Malformed`] states where it could not be read.
    pub fn finish(self) -> Result<Box<Body>, Malformed> {
        let facts = match self.format {
            Format::Json(scanner) => scanner.finish(),
            Format::Multipart(scanner) => scanner.finish(),
        }?;
        Ok(Box::new(Body { facts, kind: self.kind }))
    }
}
