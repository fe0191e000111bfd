//! A backend that closes its idle connections at once meets requests that are on their way to it. That is
//! one event and no reason to leave it alone, however many requests it meets.

use crate::harness::{CHAT, Gateway, Setup, chat_body, eventually};
use std::io::Write;
use std::net::{Ipv4Addr, Shutdown};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// How long bytes take to the backend, and how long back.
const AWAY: Duration = Duration::from_millis(20);
const CLIENTS: usize = 20;
/// As many as the breaker's rules ask for, in a closing that shows anything.
const RESETS_MIN: usize = 5;
/// How many closings must meet this many requests, and how many are tried: a busy machine has clients wait.
const CLOSINGS: usize = 3;
const CLOSINGS_MAX: usize = 30;

/// A backend that is some milliseconds away and keeps connections alive, until it is told to close those
/// that are idle. It does not know yet of what is on its way to it.
struct Distant {
    port: u16,
    farewell: &'static str,
    connections: Arc<Mutex<Vec<Arc<Connection>>>>,
    /// How many requests arrived on a connection that it had closed.
    resets: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

struct Connection {
    socket: std::net::TcpStream,
    is_busy: AtomicBool,
    is_closed: AtomicBool,
}

impl Distant {
    /// It says `farewell` on the connections that it closes.
    async fn start(farewell: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let resets = Arc::new(AtomicUsize::new(0));
        let (known, counter) = (Arc::clone(&connections), Arc::clone(&resets));
        let task = tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let stream = stream.into_std().unwrap();
                let connection = Arc::new(Connection {
                    socket: stream.try_clone().unwrap(),
                    is_busy: AtomicBool::new(false),
                    is_closed: AtomicBool::new(false),
                });
                known.lock().unwrap().push(Arc::clone(&connection));
                let stream = TcpStream::from_std(stream).unwrap();
                tasks.spawn(serve(stream, connection, Arc::clone(&counter)));
            }
        });
        Self { port, farewell, connections, resets, task }
    }

    /// Closes all connections that are idle, which the other end sees later, at one time; returns how many
    /// requests met that.
    async fn close_idle(&self) -> usize {
        let before = self.resets.load(Ordering::SeqCst);
        let idle: Vec<Arc<Connection>> = std::mem::take(&mut *self.connections.lock().unwrap());
        let (busy, idle): (Vec<_>, Vec<_>) =
            idle.into_iter().partition(|it| it.is_busy.load(Ordering::SeqCst));
        self.connections.lock().unwrap().extend(busy);
        idle.iter().for_each(|connection| connection.is_closed.store(true, Ordering::SeqCst));
        sleep(AWAY).await;
        for connection in idle {
            let _ = (&connection.socket).write_all(self.farewell.as_bytes());
            let _ = connection.socket.shutdown(Shutdown::Both);
        }
        sleep(2 * AWAY).await;
        self.resets.load(Ordering::SeqCst) - before
    }
}

impl Drop for Distant {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves one connection until it is closed.
async fn serve(mut stream: TcpStream, connection: Arc<Connection>, resets: Arc<AtomicUsize>) {
    let _ = stream.set_nodelay(true);
    while read_request(&mut stream).await {
        sleep(AWAY).await;
        connection.is_busy.store(true, Ordering::SeqCst);
        if connection.is_closed.load(Ordering::SeqCst) {
            resets.fetch_add(1, Ordering::SeqCst);
            return;
        }
        sleep(AWAY).await;
        let body = r#"{"object":"chat.completion","choices":[]}"#;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json";
        let response = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(response.as_bytes()).await.is_err() {
            return;
        }
        connection.is_busy.store(false, Ordering::SeqCst);
    }
}

/// Whether a whole request came; not when the other end closed. What is not whole is kept by nobody, so
/// requests must be small.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut received = Vec::new();
    let end = chat_body()["messages"][0]["content"].as_str().unwrap().to_owned();
    while !String::from_utf8_lossy(&received).contains(&end) {
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes).await {
            Ok(0) | Err(_) => return false,
            Ok(read) => received.extend_from_slice(&bytes[..read]),
        }
    }
    true
}

async fn breaker(gateway: &Gateway) -> u64 {
    gateway.envoy.stat("wasmcustom.spillway_breaker_open_until_ms.pool.gpt.backend.distant").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_closes_its_idle_connections_at_once_is_not_left_alone() {
    is_not_left_alone("").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_is_one_that_says_408_on_them_before() {
    is_not_left_alone(
        "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
}

async fn is_not_left_alone(farewell: &'static str) {
    let distant = Distant::start(farewell).await;
    let gateway = Setup::new()
        .backend("second", serde_json::json!({"priority": 2}))
        .backend_elsewhere("distant", serde_json::json!({"priority": 1}), distant.port)
        .settings(|settings| settings.workers = 2)
        .start()
        .await;
    let (is_over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, is_over, served) =
            (gateway.another_client(), Arc::clone(&is_over), Arc::clone(&served));
        clients.spawn(async move {
            while !is_over.load(Ordering::SeqCst) {
                let response = client.post(CHAT, &chat_body()).await;
                assert_eq!(response.status, 200, "{}", response.text());
                served.fetch_add(usize::from(response.served_by() == "distant"), Ordering::SeqCst);
            }
        });
    }
    let mut showing = 0;
    for _ in 0..CLOSINGS_MAX {
        let before = served.load(Ordering::SeqCst);
        eventually("all clients are served", async || {
            served.load(Ordering::SeqCst) >= before + 2 * CLIENTS
        })
        .await;
        showing += usize::from(distant.close_idle().await >= RESETS_MIN);
        if showing == CLOSINGS {
            break;
        }
    }
    assert_eq!(showing, CLOSINGS, "closings that met {RESETS_MIN} requests");
    let before = served.load(Ordering::SeqCst);
    eventually("it serves again", async || served.load(Ordering::SeqCst) > before + CLIENTS).await;
    is_over.store(true, Ordering::SeqCst);
    clients.join_all().await;
    assert_eq!(breaker(&gateway).await, 0);
    let faults = "wasmcustom.spillway_attempts_total.pool.gpt.backend.distant.outcome.fault";
    let faults = gateway.envoy.stat(faults).await;
    assert!(faults >= (CLOSINGS * RESETS_MIN) as u64, "{faults} attempts saw a reset");
}
