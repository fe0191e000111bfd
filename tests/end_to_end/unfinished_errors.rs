//! Errors whose bodies never end, drip, or break off: their heads are enough, and are not held for long.

use crate::harness::raw::Connection;
use crate::harness::{CHAT, Gateway, Setup, chat_body, forgetful};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What follows the head of an error.
#[derive(Clone, Copy, Debug)]
enum Rest {
    /// Nothing, forever.
    Silence,
    /// A byte of the body from time to time, forever.
    Drip,
    /// The connection is closed before the body is complete.
    Close,
}

const RESTS: [Rest; 3] = [Rest::Silence, Rest::Drip, Rest::Close];

/// How long a head is held.
const HOLD: Duration = Duration::from_millis(300);

struct Unfinished {
    port: u16,
    task: JoinHandle<()>,
}

impl Unfinished {
    async fn start(head: &str, begin: &str, rest: Rest) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let bytes = format!("HTTP/1.1 {head}\r\ncontent-length: 100000\r\n\r\n{begin}");
        let task = tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.push(tokio::spawn(serve(stream, bytes.clone(), rest)));
            }
        });
        Self { port, task }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, bytes: String, rest: Rest) {
    let mut request = vec![0; 64 * 1024];
    let _ = stream.read(&mut request).await;
    let _ = stream.write_all(bytes.as_bytes()).await;
    match rest {
        Rest::Silence => drop(stream.read(&mut request).await),
        Rest::Drip => {
            while stream.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Rest::Close => {}
    }
}

/// The unfinished backend, before a mock if there is to be one.
async fn gateway(backend: &Unfinished, keys: Value, has_second: bool, pool: Value) -> Gateway {
    let mut keys = keys;
    keys["priority"] = json!(1);
    let setup = if has_second {
        Setup::new().backend("second", json!({"priority": 2}))
    } else {
        Setup::new()
    };
    setup
        .backend_elsewhere("first", keys, backend.port)
        .pool(pool)
        .pool(json!({"failover": {"hold": {"time": "300ms"}}}))
        .start()
        .await
}

#[tokio::test]
async fn an_error_that_another_backend_need_not_give_fails_over_in_time() {
    for (head, word) in [
        ("429 Too Many Requests", "429"),
        ("404 Not Found", "404"),
        ("402 Payment Required", "402"),
        ("500 Internal Server Error", "500"),
    ] {
        for rest in RESTS {
            let backend = Unfinished::start(head, r#"{"error":{"#, rest).await;
            let gateway = gateway(&backend, json!({}), true, forgetful()).await;
            let started = Instant::now();
            let response = gateway.chat().await;
            let what = format!("{head}, {rest:?}");
            assert_eq!((response.status, response.served_by()), (200, "second"), "{what}");
            let trail = response.header("x-spillway-trail").unwrap();
            assert!(trail.starts_with(&format!("first;{word}")), "{what}: {trail}");
            assert!(started.elapsed() < HOLD * 10, "{what}: {:?}", started.elapsed());
        }
    }
}

#[tokio::test]
async fn the_status_line_of_the_clients_error_comes_in_time() {
    let provisioned =
        json!({"provisioned": {"ptus": 100, "input_tokens_per_minute_per_ptu": 2500}});
    for (head, keys) in [
        ("400 Bad Request", provisioned.clone()),
        ("413 Content Too Large", provisioned),
        ("422 Unprocessable Content", json!({})),
    ] {
        for rest in [Rest::Silence, Rest::Drip] {
            for begin in ["", r#"{"error":{"#] {
                let what = format!("{head}, {rest:?}, {begin:?}");
                let backend = Unfinished::start(head, begin, rest).await;
                let gateway = gateway(&backend, keys.clone(), true, forgetful()).await;
                let started = Instant::now();
                let mut connection = Connection::open(gateway.envoy.port).await;
                let body = chat_body().to_string();
                let request = format!(
                    "POST {CHAT} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n\
                     content-length: {}\r\n\r\n{body}",
                    body.len()
                );
                connection.send(request.as_bytes()).await;
                let response = connection.read_until("\r\n\r\n").await;
                assert!(
                    response.starts_with(&format!("HTTP/1.1 {}", &head[..3])),
                    "{what}: {response}"
                );
                assert!(started.elapsed() < HOLD * 10, "{what}: {:?}", started.elapsed());
            }
        }
    }
}

#[tokio::test]
async fn a_throttle_that_breaks_off_is_a_throttle() {
    let head = "429 Too Many Requests\r\nretry-after: 30";
    for rest in RESTS {
        let backend = Unfinished::start(head, "{", rest).await;
        let gateway = gateway(&backend, json!({}), true, json!({})).await;
        for trail in ["first;429;gate=", "first;skip=gate;gate="] {
            let response = gateway.chat().await;
            assert_eq!((response.status, response.served_by()), (200, "second"), "{rest:?}");
            let told = response.header("x-spillway-trail").unwrap();
            assert!(told.starts_with(trail), "{rest:?}: {told}");
        }
    }
}

#[tokio::test]
async fn an_error_of_the_only_backend_that_breaks_off_is_passed_on_as_an_error() {
    for (head, status) in [("429 Too Many Requests\r\nretry-after: 7", 429), ("404 Not Found", 503)]
    {
        let backend = Unfinished::start(head, "{", Rest::Close).await;
        let gateway = gateway(&backend, json!({}), false, json!({})).await;
        let response = gateway.chat().await;
        assert_eq!(response.status, status, "{}", response.text());
        assert!(response.json()["error"]["message"].is_string());
        assert!(response.header("retry-after").is_some());
    }
}
