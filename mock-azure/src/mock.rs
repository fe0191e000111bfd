//! The handle that a test holds.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::config::MockConfig;
use crate::faults::{Fault, Faults, Waiting};
use crate::listener::{Command, Port};
use crate::record::Record;
use crate::state::State;

/// A running mock backend. Dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Mock {
    state: Arc<State>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Mock {
    /// Starts a backend on a free port of 127.0.0.1, on the current tokio runtime.
    pub async fn start(config: MockConfig) -> io::Result<Self> {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into(), config).await
    }

    /// Starts a backend on this address; port 0 is any free one.
    #[expect(clippy::unused_async, reason = "it needs a runtime, which an async signature says")]
    pub async fn start_on(address: SocketAddr, config: MockConfig) -> io::Result<Self> {
        let port = Port::bind(address)?;
        let (commands, received) = mpsc::unbounded_channel();
        let state = State::new(config, commands);
        let address = port.address();
        let task = tokio::spawn(port.run(Arc::clone(&state), received));
        Ok(Self { state, address, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The current settings.
    pub fn config(&self) -> MockConfig {
        self.state.config().as_ref().clone()
    }

    /// Changes the settings; when the kind changes, its windows start empty.
    pub fn set_config(&self, config: MockConfig) {
        self.state.set_config(config);
    }

    /// What was received, oldest first. Requests to the control endpoints are left out.
    pub fn records(&self) -> Vec<Record> {
        self.state.records.since(0)
    }

    /// Waits until `enough` holds for the records and returns them; wrap it in a timeout.
    pub async fn records_when(&self, enough: impl Fn(&[Record]) -> bool) -> Vec<Record> {
        self.state.records.when(enough).await
    }

    /// Forgets all records; numbering continues.
    pub fn clear_records(&self) {
        self.state.records.clear();
    }

    /// The counters that `GET /_mock/stats` shows.
    pub fn stats(&self) -> Value {
        self.state.stats()
    }

    /// Gives this fault to the next request that it fits, after the ones pushed before.
    pub fn push_fault(&self, fault: Fault) {
        self.state.push_fault(Waiting { fault, path_contains: None });
    }

    /// The same for the next request whose path (with query) contains `part`.
    pub fn push_fault_for(&self, part: impl Into<String>, fault: Fault) {
        self.state.push_fault(Waiting { fault, path_contains: Some(part.into()) });
    }

    /// Gives this fault to every request for which none is queued, until changed.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state.set_fault(fault.map(|fault| Waiting { fault, path_contains: None }));
    }

    /// Forgets queued and standing faults.
    pub fn clear_faults(&self) {
        self.state.faults.with(Faults::clear);
    }

    /// Closes all connections and refuses new ones; returns when that is so.
    pub async fn stop(&self) -> io::Result<()> {
        self.command(Command::Shut).await
    }

    /// Listens again on the same port.
    pub async fn restart(&self) -> io::Result<()> {
        self.command(Command::Open).await
    }

    /// Ends in order: refuses new connections and gives running requests a few seconds.
    pub async fn finish(self) -> io::Result<()> {
        self.command(Command::Finish).await
    }

    async fn command(
        &self,
        command: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Command,
    ) -> io::Result<()> {
        let (done, when_done) = oneshot::channel();
        let _ = self.state.commands.send(command(done));
        when_done.await.unwrap_or_else(|_| Err(io::ErrorKind::NotConnected.into()))
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.task.abort();
        self.state.hang_up.notify_waiters();
    }
}
