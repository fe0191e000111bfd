//! Requests in windows of ten seconds, as Azure applies a limit of requests per minute.
//!
//! The windows are those of the wall clock. A request is counted when it is sent and stays counted, because Azure
//! counts refused calls too. A window that begins more than a second after now shows that the clock was set back, and
//! is void.

use super::SKEW;
use crate::policy::codec::{Reader, Writer};
use crate::policy::time::{Millis, Timestamp};

const WINDOW: Millis = Millis::from_secs(10);
const WINDOWS_PER_MINUTE: u32 = 6;

/// The requests of the current window. The default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Requests {
    /// The number of the window since the epoch.
    window: u64,
    count: u32,
}

impl Requests {
    /// The window of `now`.
    pub(super) fn at(self, now: Timestamp) -> Self {
        let window = now.as_ms().checked_div(WINDOW.as_ms()).unwrap_or(0);
        let is_skewed = self.window > window && start(self.window) <= now.plus(SKEW);
        if self.window == window || is_skewed { self } else { Self { window, count: 0 } }
    }

    /// Until when there is no room for a request; `None`: there is room.
    pub(super) fn full_until(&self, per_minute: u32) -> Option<Timestamp> {
        let limit = per_minute.div_ceil(WINDOWS_PER_MINUTE);
        (self.count >= limit).then(|| start(self.window.saturating_add(1)))
    }

    /// Counts a request.
    pub(super) fn take(&mut self) {
        self.count = self.count.saturating_add(1);
    }

    pub(super) fn encode(&self, record: &mut Writer<'_>) {
        record.u64(self.window);
        record.u32(self.count);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self { window: reader.u64()?, count: reader.u32()? })
    }
}

fn start(window: u64) -> Timestamp {
    Timestamp::from_ms(window.saturating_mul(WINDOW.as_ms()))
}
