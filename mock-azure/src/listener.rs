//! The port: accepting, refusing for a time, and ending in order.
//!
//! A backend that is down refuses connections, and comes back on the same port. While it is down the
//! port stays bound but does not listen, so that no other program can be given it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::link::{Link, Socket};
use crate::service;
use crate::state::State;

/// How long running requests may take after an orderly end has begun.
const GRACE: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// What the port is told to do. The senders are answered when it is done.
#[derive(Debug)]
pub(crate) enum Command {
    /// Close all connections and refuse new ones.
    Shut(oneshot::Sender<io::Result<()>>),
    /// The same, and open again by itself.
    ShutFor(Duration),
    /// Accept connections again.
    Open(oneshot::Sender<io::Result<()>>),
    /// Let running requests end, then end.
    Finish(oneshot::Sender<io::Result<()>>),
}

/// The port with its connections.
#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    door: Door,
    connections: JoinSet<()>,
    finishing: watch::Sender<bool>,
    reopens_at: Option<Instant>,
}

#[derive(Debug)]
enum Door {
    Open(TcpListener),
    /// Holds the port; none when it could not be bound or is not wanted any more.
    Shut(Option<TcpSocket>),
}

impl Port {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = bind(address)?.listen(BACKLOG)?;
        Ok(Self {
            address: listener.local_addr()?,
            door: Door::Open(listener),
            connections: JoinSet::new(),
            finishing: watch::Sender::new(false),
            reopens_at: None,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is told to finish or the mock is gone.
    pub(crate) async fn run(
        mut self,
        state: Arc<State>,
        mut commands: mpsc::UnboundedReceiver<Command>,
    ) {
        loop {
            let reopens_at = self.reopens_at;
            tokio::select! {
                stream = self.door.accept() => self.serve(stream, &state),
                Some(_) = self.connections.join_next() => {}
                () = sleep_until(reopens_at) => {
                    if self.open().is_err() {
                        self.reopens_at = Some(Instant::now() + Duration::from_millis(50));
                    }
                }
                command = commands.recv() => match command {
                    Some(Command::Shut(done)) => {
                        let _ = done.send(self.shut(&state).await);
                    }
                    Some(Command::ShutFor(length)) => {
                        let _ = self.shut(&state).await;
                        self.reopens_at = Some(Instant::now() + length);
                    }
                    Some(Command::Open(done)) => {
                        let _ = done.send(self.open());
                    }
                    Some(Command::Finish(done)) => {
                        self.finish(&state).await;
                        let _ = done.send(Ok(()));
                        return;
                    }
                    None => return,
                },
            }
        }
    }

    fn serve(&mut self, stream: TcpStream, state: &Arc<State>) {
        let id = state.counters.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let finishing = self.finishing.subscribe();
        self.connections.spawn(connection(stream, id, Arc::clone(state), finishing));
    }

    async fn shut(&mut self, state: &State) -> io::Result<()> {
        self.reopens_at = None;
        if let Door::Open(_) = self.door {
            // Only one socket may be bound, so the listener goes before its place is taken.
            self.door = Door::Shut(None);
            self.door = Door::Shut(Some(bind(self.address)?));
        }
        state.hang_up.notify_waiters();
        self.connections.shutdown().await;
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        self.reopens_at = None;
        if let Door::Shut(held) = &mut self.door {
            let socket = held.take().map_or_else(|| bind(self.address), Ok)?;
            self.door = Door::Open(socket.listen(BACKLOG)?);
        }
        Ok(())
    }

    async fn finish(&mut self, state: &State) {
        self.door = Door::Shut(None);
        self.finishing.send_replace(true);
        state.hang_up.notify_waiters();
        let drained = async { while self.connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, drained).await;
        self.connections.shutdown().await;
    }
}

impl Door {
    /// The next connection; never, while the door is shut.
    async fn accept(&self) -> TcpStream {
        let Self::Open(listener) = self else { return std::future::pending().await };
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return stream,
                // Out of file descriptors, or a client that is gone already: others may still come.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

/// A bound socket that does not listen yet.
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn connection(
    stream: TcpStream,
    id: u64,
    state: Arc<State>,
    mut finishing: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let link = Link::new(id);
    let socket = Socket::new(stream, Arc::clone(&link));
    let handle = service_fn(|request| service::handle(request, Arc::clone(&state), link.clone()));
    let connection = http1::Builder::new().serve_connection(socket, handle).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    // Errors are how clients leave and how faults end a connection: the record tells which.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = finishing.wait_for(|finishing| *finishing) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
