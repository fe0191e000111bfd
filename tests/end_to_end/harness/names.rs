//! A name server that answers as a test tells it to, or not at all.
#![allow(clippy::disallowed_types, reason = "a test changes what the server's task reads")]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const A: [u8; 2] = [0, 1];
const AAAA: [u8; 2] = [0, 28];
const NO_ERROR: u8 = 0;
const NO_SUCH_NAME: u8 = 3;

/// What is known of a name.
#[derive(Clone, Debug)]
pub(crate) enum Name {
    /// It has these addresses.
    At(Vec<IpAddr>),
    /// Questions for it are not answered.
    Silent,
}

/// A name server. It answers that an unknown name does not exist.
pub(crate) struct NameServer {
    port: u16,
    names: Arc<Mutex<HashMap<String, Name>>>,
    task: JoinHandle<()>,
}

impl NameServer {
    pub(crate) async fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let names = Arc::default();
        let task = tokio::spawn(serve(socket, Arc::clone(&names)));
        Self { port, names, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn set(&self, host: &str, name: Name) {
        self.names.lock().unwrap().insert(host.to_owned(), name);
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: UdpSocket, names: Arc<Mutex<HashMap<String, Name>>>) {
    let mut question = [0; 1024];
    while let Ok((length, peer)) = socket.recv_from(&mut question).await {
        let known = |host: &str| names.lock().unwrap().get(host).cloned();
        if let Some(response) = answer(&question[..length], known) {
            send(&socket, &response, peer).await;
        }
    }
}

async fn send(socket: &UdpSocket, response: &[u8], peer: SocketAddr) {
    let _ = socket.send_to(response, peer).await;
}

/// The answer to a message with one question (RFC 1035, section 4), if there is to be one.
fn answer(message: &[u8], known: impl Fn(&str) -> Option<Name>) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    while let length @ 1.. = usize::from(*message.get(at)?) {
        labels.push(String::from_utf8_lossy(message.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let kind: [u8; 2] = message.get(at + 1..at + 3)?.try_into().unwrap();
    let question = message.get(12..at + 5)?;
    let (code, addresses) = match known(&labels.join(".")) {
        Some(Name::Silent) => return None,
        Some(Name::At(addresses)) => (NO_ERROR, addresses),
        None => (NO_SUCH_NAME, Vec::new()),
    };
    let records: Vec<Vec<u8>> = addresses
        .into_iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) if kind == A => Some(address.octets().to_vec()),
            IpAddr::V6(address) if kind == AAAA => Some(address.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut response = message[..2].to_vec();
    response.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(records.len()).unwrap(), 0, 0, 0, 0]);
    response.extend(question);
    for record in records {
        // The name of the question, a class, and a time to live of one second.
        response.extend([0xc0, 12, kind[0], kind[1], 0, 1, 0, 0, 0, 1]);
        response.extend([0, u8::try_from(record.len()).unwrap()]);
        response.extend(record);
    }
    Some(response)
}
