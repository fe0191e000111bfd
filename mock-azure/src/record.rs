//! What the mock received and how that ended, for tests to assert on.
//!
//! A record is written when the request's headers arrive and updated until the exchange is over, so a
//! request whose client went away leaves a trace too. Memory is bounded: the oldest records go first,
//! and of the kept ones the oldest bodies lose their bytes (length and hash stay).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Notify;

use crate::{ids, lock::Lock};

/// The largest body that is kept whole.
const KEPT_BODY_BYTES_MAX: usize = 32 << 20;
/// All kept bodies together: enough for two dozen failovers of the largest allowed prompt.
const KEPT_BYTES_MAX: usize = 512 << 20;
/// Records kept: minutes of a demo's load.
const KEPT_RECORDS_MAX: usize = 100_000;

/// One request as the mock received it.
#[derive(Debug, Clone)]
pub struct Record {
    /// Counts up from 1 over the life of the mock; `GET /_mock/records?since=` compares it.
    pub number: u64,
    /// When the request's headers had arrived.
    pub at: Instant,
    /// The same moment since the Unix epoch, comparable between processes of one machine.
    pub at_unix: Duration,
    /// The request method.
    pub method: String,
    /// Path and query as sent.
    pub path: String,
    /// Every header in order, names in lower case, values as bytes.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body; empty when it is longer than 32 MiB or was dropped to bound memory.
    pub body: Bytes,
    /// The length of the body as received.
    pub body_length: u64,
    /// [`body_hash`] of the body as received.
    pub body_hash: String,
    /// The status that was answered; `None` when the connection ended before the headers were made.
    pub status: Option<u16>,
    /// The fault that was applied, by its name in JSON.
    pub fault: Option<String>,
    /// The answer was handed to the client to its end. Stays false when the client went away, and
    /// when a fault cut the response.
    pub completed: bool,
    /// Nothing will change in this record any more.
    pub ended: bool,
    /// Equal for requests of one connection, unique in one mock.
    pub connection_id: u64,
}

impl Record {
    /// The first header with this (lower-case) name, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// The fingerprint in [`Record::body_hash`]: SHA-1 in lower-case hex.
pub fn body_hash(body: &[u8]) -> String {
    sha1_smol::Sha1::from(body).digest().to_string()
}

/// A record as the control endpoint shows it. Bodies are given as text, longer ones only by their hash.
#[derive(Debug, Serialize)]
pub(crate) struct RecordView {
    number: u64,
    at_unix_ms: u64,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    body_length: u64,
    body_hash: String,
    status: Option<u16>,
    fault: Option<String>,
    completed: bool,
    ended: bool,
    connection_id: u64,
}

impl From<Record> for RecordView {
    fn from(record: Record) -> Self {
        const SHOWN_BYTES_MAX: usize = 64 << 10;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            number: record.number,
            at_unix_ms: u64::try_from(record.at_unix.as_millis()).unwrap_or(u64::MAX),
            method: record.method,
            path: record.path,
            headers: record.headers.into_iter().map(|(name, value)| (name, text(&value))).collect(),
            body: (record.body.len() <= SHOWN_BYTES_MAX).then(|| text(&record.body)),
            body_length: record.body_length,
            body_hash: record.body_hash,
            status: record.status,
            fault: record.fault,
            completed: record.completed,
            ended: record.ended,
            connection_id: record.connection_id,
        }
    }
}

/// All records of one mock.
#[derive(Debug, Default)]
pub(crate) struct Records {
    kept: Lock<Kept>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    records: VecDeque<Record>,
    last_number: u64,
    body_bytes: usize,
}

impl Records {
    /// Opens a record and returns its number.
    pub(crate) fn open(&self, head: &hyper::http::request::Parts, connection_id: u64) -> u64 {
        let headers = head.headers.iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        let mut record = Record {
            number: 0,
            at: tokio::time::Instant::now().into_std(),
            at_unix: ids::since_epoch(),
            method: head.method.to_string(),
            path: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            headers: headers.collect(),
            body: Bytes::new(),
            body_length: 0,
            body_hash: String::new(),
            status: None,
            fault: None,
            completed: false,
            ended: false,
            connection_id,
        };
        self.kept.with(|kept| {
            kept.last_number += 1;
            record.number = kept.last_number;
            kept.records.push_back(record);
            while kept.records.len() > KEPT_RECORDS_MAX {
                let gone = kept.records.pop_front().map_or(0, |record| record.body.len());
                kept.body_bytes -= gone;
            }
            kept.last_number
        })
    }

    /// Stores the body of a record. `hash` is computed by the caller, outside the lock.
    pub(crate) fn store_body(&self, number: u64, body: &Bytes, hash: String) {
        self.kept.with(|kept| {
            let Some(record) = kept.find(number) else { return };
            record.body_length = body.len() as u64;
            record.body_hash = hash;
            if body.len() <= KEPT_BODY_BYTES_MAX {
                record.body = body.clone();
                kept.body_bytes += body.len();
            }
            kept.forget_oldest_bodies();
        });
        self.changed.notify_waiters();
    }

    /// Changes a record, if it is still kept.
    pub(crate) fn update(&self, number: u64, change: impl FnOnce(&mut Record)) {
        self.kept.with(|kept| kept.find(number).map(change));
        self.changed.notify_waiters();
    }

    /// A copy of the records after this number (bodies are shared, not copied).
    pub(crate) fn since(&self, number: u64) -> Vec<Record> {
        let newer = |record: &&Record| record.number > number;
        self.kept.with(|kept| kept.records.iter().filter(newer).cloned().collect())
    }

    pub(crate) fn clear(&self) {
        self.kept.with(|kept| {
            kept.records.clear();
            kept.body_bytes = 0;
        });
    }

    /// Waits until `enough` holds for the records.
    pub(crate) async fn when(&self, enough: impl Fn(&[Record]) -> bool) -> Vec<Record> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable(); // a change between the look and the wait must wake
            let records = self.since(0);
            if enough(&records) {
                return records;
            }
            changed.await;
        }
    }
}

impl Kept {
    /// Numbers ascend without gaps, so a record's place follows from the first one's number.
    fn find(&mut self, number: u64) -> Option<&mut Record> {
        let first = self.records.front()?.number;
        self.records.get_mut(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    fn forget_oldest_bodies(&mut self) {
        for record in &mut self.records {
            if self.body_bytes <= KEPT_BYTES_MAX {
                break;
            }
            self.body_bytes -= std::mem::take(&mut record.body).len();
        }
    }
}
