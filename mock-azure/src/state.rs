//! Everything that the connections of one mock share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::answers::StoredResponses;
use crate::config::MockConfig;
use crate::faults::{Fault, Faults, Waiting};
use crate::limits::Limits;
use crate::listener::Command;
use crate::lock::Lock;
use crate::record::Records;

/// The shared state of one mock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Lock<Arc<MockConfig>>,
    pub(crate) limits: Lock<Limits>,
    pub(crate) faults: Lock<Faults>,
    pub(crate) records: Records,
    pub(crate) stored_responses: Lock<StoredResponses>,
    pub(crate) counters: Counters,
    /// Wakes the WebSocket sessions when the mock hangs up on everyone.
    pub(crate) hang_up: Notify,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
}

/// What `GET /_mock/stats` shows.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) completed: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) tokens_used: AtomicU64,
    by_status: Lock<BTreeMap<u16, u64>>,
}

impl Counters {
    pub(crate) fn count_status(&self, status: u16) {
        self.by_status.with(|counts| *counts.entry(status).or_default() += 1);
    }
}

impl State {
    pub(crate) fn new(config: MockConfig, commands: mpsc::UnboundedSender<Command>) -> Arc<Self> {
        Arc::new(Self {
            limits: Lock::new(Limits::new(config.kind, Instant::now())),
            config: Lock::new(Arc::new(config)),
            faults: Lock::default(),
            records: Records::default(),
            stored_responses: Lock::default(),
            counters: Counters::default(),
            hang_up: Notify::new(),
            commands,
        })
    }

    pub(crate) fn config(&self) -> Arc<MockConfig> {
        self.config.with(|config| Arc::clone(config))
    }

    /// Changes the configuration; a changed kind starts with empty windows.
    pub(crate) fn set_config(&self, config: MockConfig) {
        if self.config().kind != config.kind {
            self.limits.with(|limits| *limits = Limits::new(config.kind, Instant::now()));
        }
        self.config.with(|current| *current = Arc::new(config));
    }

    /// Lets a fault wait for its request. A refusal of connections waits for nobody.
    pub(crate) fn push_fault(&self, waiting: Waiting) {
        if let Fault::Refuse { length } = waiting.fault {
            let _ = self.commands.send(Command::ShutFor(length));
        } else {
            self.faults.with(|faults| faults.push(waiting));
        }
    }

    pub(crate) fn set_fault(&self, standing: Option<Waiting>) {
        match standing {
            Some(refuse @ Waiting { fault: Fault::Refuse { .. }, .. }) => self.push_fault(refuse),
            standing => self.faults.with(|faults| faults.set(standing)),
        }
    }

    pub(crate) fn stats(&self) -> Value {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let by_status = self.counters.by_status.with(|counts| counts.clone());
        let utilisation = self.limits.with(|limits| limits.utilisation_percent(Instant::now()));
        json!({
            "name": self.config().name,
            "connections": count(&self.counters.connections),
            "requests": count(&self.counters.requests),
            "in_flight": count(&self.counters.in_flight),
            "completed": count(&self.counters.completed),
            "faults": count(&self.counters.faults),
            "tokens_used": count(&self.counters.tokens_used),
            "throttled": by_status.get(&429).copied().unwrap_or_default(),
            "by_status": by_status,
            "utilisation_percent": utilisation,
        })
    }
}
