//! The texts below the top level of a JSON body that matter, as keys and as values.

use super::DATA_URL;

/// What is remembered below the top level.
#[derive(Debug, Default)]
pub(super) struct Nested {
    /// A text that was read and may be a key.
    pub(super) pending: Option<NestedText>,
    /// The key of the next value.
    pub(super) key: NestedKey,
}

/// What matters of a text below the top level.
#[derive(Clone, Copy, Debug)]
pub(super) struct NestedText {
    pub(super) len: u64,
    pub(super) word: NestedWord,
}

/// The texts below the top level that mean something, as a key or as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NestedWord {
    Data,
    DataUrl,
    Dependency,
    EncryptedContent,
    Image,
    ItemReference,
    Other,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum NestedKey {
    /// None: an element of an array.
    #[default]
    None,
    /// Audio as base64.
    Data,
    /// Reasoning that one resource can decrypt.
    EncryptedContent,
    Other,
}

/// Enough to distinguish `encrypted_content` from anything longer.
pub(super) const NESTED_BYTES_MAX: usize = 20;

impl Nested {
    /// The text before a colon was a key.
    pub(super) fn end_key(&mut self) {
        self.key = match self.pending.take().map(|text| text.word) {
            Some(NestedWord::Data) => NestedKey::Data,
            Some(NestedWord::EncryptedContent) => NestedKey::EncryptedContent,
            _ => NestedKey::Other,
        };
    }
}

impl NestedText {
    /// A text of `len` bytes that begins with `head`, of at least [`NESTED_BYTES_MAX`] if there are as many.
    pub(super) fn new(head: &[u8], len: u64) -> Self {
        let word = match head {
            b"data" => NestedWord::Data,
            b"encrypted_content" => NestedWord::EncryptedContent,
            b"image_url" | b"input_image" => NestedWord::Image,
            b"item_reference" => NestedWord::ItemReference,
            _ if head.starts_with(DATA_URL) => NestedWord::DataUrl,
            _ if is_dependency(head) => NestedWord::Dependency,
            _ => NestedWord::Other,
        };
        Self { len, word }
    }
}

/// Whether a key or the type of a tool stands for something that the body does not contain.
fn is_dependency(head: &[u8]) -> bool {
    let words: &[&[u8]] = match head {
        [b'c', b'o', ..] => &[b"code_interpreter", b"computer_use"],
        [b'f', b'i', ..] => &[b"file_data", b"file_id", b"file_search", b"file_url"],
        [b'i', b'm', ..] => &[b"image_generation"],
        [b'l', b'o', ..] => &[b"local_shell"],
        [b'm', b'c', ..] => return head == b"mcp",
        [b's', b'e', ..] => &[b"server_url"],
        [b'v', b'e', ..] => &[b"vector_store_id"],
        [b'w', b'e', ..] => &[b"web_search"],
        _ => &[],
    };
    words.iter().any(|word| head.starts_with(word))
}
