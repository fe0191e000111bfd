//! Bytes on a connection, for what no HTTP library would send or answer.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything that these tests wait for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client's end of one connection.
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(port: u16) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, received: Vec::new() }
    }

    /// Sends these bytes. A peer that has answered already need not take them.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Reads until these bytes came; returns what is before them and takes both away.
    pub(crate) async fn read_until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = find(&self.received, end.as_bytes()) {
                let taken: Vec<u8> = self.received.drain(..at + end.len()).collect();
                return String::from_utf8_lossy(&taken[..at]).into_owned();
            }
            self.receive(&format!("waits for {end:?}")).await;
        }
    }

    /// Reads exactly this many bytes.
    pub(crate) async fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            self.receive("waits for more bytes").await;
        }
        self.received.drain(..count).collect()
    }

    /// Reads until the peer closes.
    pub(crate) async fn read_to_end(&mut self) -> String {
        let read = timeout(PATIENCE, self.stream.read_to_end(&mut self.received)).await;
        // A reset after the response ends it as well.
        let _ = read.unwrap_or_else(|_| panic!("no end of: {}", self.text()));
        let text = self.text();
        self.received.clear();
        text
    }

    async fn receive(&mut self, purpose: &str) {
        let mut bytes = vec![0; 64 * 1024];
        let read = timeout(PATIENCE, self.stream.read(&mut bytes)).await;
        let read = read.unwrap_or_else(|_| panic!("{purpose}, came: {}", self.text())).unwrap();
        assert_ne!(read, 0, "{purpose}, closed after: {}", self.text());
        self.received.extend_from_slice(&bytes[..read]);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }
}

/// Sends these bytes on a connection of their own and reads until the peer closes it, which the
/// bytes have to ask for.
pub(crate) async fn exchange(port: u16, bytes: &[u8]) -> String {
    let mut connection = Connection::open(port).await;
    connection.send(bytes).await;
    connection.read_to_end().await
}

/// A backend that answers every request with the same bytes and closes.
pub(crate) struct RawBackend {
    port: u16,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl RawBackend {
    pub(crate) async fn start(response: impl Into<Vec<u8>>) -> Self {
        Self::start_in_pieces(response, usize::MAX).await
    }

    /// The same, in pieces of this many bytes that arrive one by one.
    pub(crate) async fn start_in_pieces(response: impl Into<Vec<u8>>, piece: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(AtomicUsize::new(0));
        let (counter, response) = (Arc::clone(&requests), Arc::new(response.into()));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&counter), Arc::clone(&response), piece));
            }
        });
        Self { port, requests, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for RawBackend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    requests: Arc<AtomicUsize>,
    response: Arc<Vec<u8>>,
    piece: usize,
) {
    let mut received = Vec::new();
    while !is_complete(&received) {
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(read) => received.extend_from_slice(&bytes[..read]),
        }
    }
    requests.fetch_add(1, Ordering::SeqCst);
    let _ = stream.set_nodelay(true);
    for piece in response.chunks(piece) {
        let _ = stream.write_all(piece).await;
        if piece.len() < response.len() {
            // Time for the peer to read it by itself.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let _ = stream.shutdown().await;
}

/// Whether a request with its body is there; a connection that closes on unread bytes is reset.
fn is_complete(received: &[u8]) -> bool {
    let Some(head) = find(received, b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&received[..head]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
    received.len() >= head + 4 + length
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}
