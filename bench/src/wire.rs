//! The part of HTTP/1.1 that a benchmark needs, so that load and upstream cost little compared with Envoy.
//!
//! The client of the tests would do: it keeps headers and bodies that nobody looks at here, and its own CPU time, on
//! the CPUs that Envoy runs on, would be part of the noise. And only who reads from the socket can tell whether
//! events came one at a time.

use std::io;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How much is read at once.
const READ_MAX_BYTES: usize = 64 * 1024;

/// The end of a chunked body.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

/// Reads one message after the other from a connection.
pub(crate) struct Reader {
    bytes: Vec<u8>,
}

/// One message that was read.
pub(crate) struct Message {
    pub(crate) head: String,
    /// When its first bytes came.
    pub(crate) first_byte_at: Instant,
    /// How many reads brought its body.
    pub(crate) reads: u32,
}

impl Message {
    /// The value of a header; names are compared in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }

    /// The status of a response; 0 when it has none.
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::with_capacity(2 * READ_MAX_BYTES) }
    }

    /// Reads one message to its end; `None` when the connection ended before it.
    pub(crate) async fn message(&mut self, stream: &mut TcpStream) -> io::Result<Option<Message>> {
        self.bytes.clear();
        let mut first_byte_at = None;
        let end_of_head = loop {
            if let Some(at) = find(&self.bytes, b"\r\n\r\n") {
                break at + 4;
            }
            if self.read(stream).await? == 0 {
                return Ok(None);
            }
            first_byte_at.get_or_insert_with(Instant::now);
        };
        let head = String::from_utf8_lossy(&self.bytes[..end_of_head]).into_owned();
        let first_byte_at = first_byte_at.unwrap_or_else(Instant::now);
        let mut message = Message { head, first_byte_at, reads: 0 };
        match message.header("content-length").and_then(|length| length.parse().ok()) {
            Some(length) => self.skip(stream, end_of_head, length, &mut message).await?,
            None if message.header("transfer-encoding").is_some() => {
                self.skip_chunks(stream, end_of_head, &mut message).await?;
            }
            None => {}
        }
        Ok(Some(message))
    }

    async fn skip(
        &mut self,
        stream: &mut TcpStream,
        end_of_head: usize,
        length: usize,
        message: &mut Message,
    ) -> io::Result<()> {
        let mut seen = self.bytes.len() - end_of_head;
        while seen < length {
            self.bytes.clear();
            seen += self.more(stream).await?;
            message.reads += 1;
        }
        Ok(())
    }

    /// The events of this benchmark never end like a last chunk, so the last bytes show the end.
    async fn skip_chunks(
        &mut self,
        stream: &mut TcpStream,
        end_of_head: usize,
        message: &mut Message,
    ) -> io::Result<()> {
        self.bytes.drain(..end_of_head - 2); // the line's end may belong to an empty body's chunk
        while !self.bytes.ends_with(LAST_CHUNK) {
            let keep = self.bytes.len().saturating_sub(LAST_CHUNK.len());
            self.bytes.drain(..keep);
            self.more(stream).await?;
            message.reads += 1;
        }
        Ok(())
    }

    async fn more(&mut self, stream: &mut TcpStream) -> io::Result<usize> {
        match self.read(stream).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            size => Ok(size),
        }
    }

    async fn read(&mut self, stream: &mut TcpStream) -> io::Result<usize> {
        self.bytes.reserve(READ_MAX_BYTES);
        stream.read_buf(&mut self.bytes).await
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// How long nothing may happen before a benchmark gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    async fn heads(parts: &[&str]) -> Vec<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut receiver, _) = listener.accept().await.unwrap();
        let mut reader = Reader::new();
        let mut heads = Vec::new();
        for part in parts {
            sender.write_all(part.as_bytes()).await.unwrap();
            heads.push(reader.message(&mut receiver).await.unwrap().unwrap().head);
        }
        heads
    }

    #[tokio::test]
    async fn messages_follow_each_other_on_one_connection() {
        let plain = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody";
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        let empty = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        let heads = heads(&[plain, chunked, empty, plain]).await;
        assert_eq!(heads[0], heads[3]);
        assert!(heads[1].ends_with("chunked\r\n\r\n"));
    }
}
