//! Realtime sessions: a WebSocket that introduces itself and echoes.
//!
//! A proxy only has to carry the upgrade and the frames to the right backend, so the mock speaks just enough
//! of RFC 6455 to prove that: the handshake, one `session.created`, and every frame sent back.

use std::io;
use std::sync::Arc;

use hyper::HeaderMap;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::answers::Answer;
use crate::ids;
use crate::problems::Problem;
use crate::state::State;

/// From RFC 6455, section 1.3.
const HANDSHAKE_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// A larger frame ends the session.
const FRAME_BYTES_MAX: u64 = 16 << 20;
const FINAL: u8 = 0x80;
const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// Who serves a session, and as what.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) name: String,
    pub(crate) model: String,
}

/// Switches protocols and serves the session on a task of its own.
pub(crate) fn accept(
    headers: &HeaderMap,
    upgrade: Option<OnUpgrade>,
    session: Session,
    state: &Arc<State>,
) -> Result<Answer, Problem> {
    let key = headers.get("sec-websocket-key").and_then(|key| key.to_str().ok());
    let (Some(key), Some(upgrade)) = (key, upgrade) else {
        return Err(Problem::plain(426));
    };
    let digest = sha1_smol::Sha1::from(format!("{key}{HANDSHAKE_GUID}")).digest().bytes();
    let state = Arc::clone(state);
    tokio::spawn(async move {
        let Ok(stream) = upgrade.await else { return };
        let served = serve(TokioIo::new(stream), session);
        // How a client leaves is its own affair.
        tokio::select! {
            _ = served => {}
            () = state.hang_up.notified() => {}
        }
    });
    let mut answer = Answer::bytes("", "", 0);
    answer.status = 101;
    answer.script.0.clear();
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    answer.headers = vec![
        header("connection", "Upgrade"),
        header("upgrade", "websocket"),
        header("sec-websocket-accept", &base64(&digest)),
    ];
    // The official clients offer their key as a subprotocol beside this one and insist on a response.
    let offered = headers.get("sec-websocket-protocol").and_then(|value| value.to_str().ok());
    if offered.is_some_and(|offered| offered.split(',').any(|one| one.trim() == "realtime")) {
        answer.headers.push(header("sec-websocket-protocol", "realtime"));
    }
    Ok(answer)
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    session: Session,
) -> io::Result<()> {
    let created = json!({
        "type": "session.created",
        "event_id": format!("event_{:016x}", ids::number()),
        "session": {
            "id": format!("sess_{:016x}", ids::number()),
            "object": "realtime.session",
            "model": session.model,
            "served_by": session.name,
        },
    });
    write_frame(&mut stream, FINAL | TEXT, created.to_string().as_bytes()).await?;
    loop {
        let (first, payload) = read_frame(&mut stream).await?;
        match first & 0xf {
            PING => write_frame(&mut stream, FINAL | PONG, &payload).await?,
            PONG => {}
            CLOSE => {
                write_frame(&mut stream, FINAL | CLOSE, &payload).await?;
                return stream.shutdown().await;
            }
            // Text, binary and continuations keep their first byte, so fragments stay fragments.
            _ => write_frame(&mut stream, first, &payload).await?,
        }
    }
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await?;
    let [first, second] = head;
    let length = match second & 0x7f {
        126 => u64::from(stream.read_u16().await?),
        127 => stream.read_u64().await?,
        length => u64::from(length),
    };
    let masked = second & 0x80 != 0;
    if length > FRAME_BYTES_MAX || !masked {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).await?;
    let mut payload = vec![0; usize::try_from(length).unwrap_or_default()];
    stream.read_exact(&mut payload).await?;
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok((first, payload))
}

async fn write_frame(
    stream: &mut (impl AsyncWrite + Unpin),
    first: u8,
    payload: &[u8],
) -> io::Result<()> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(length as u8),
        length @ 126..0x1_0000 => {
            frame.push(126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// Base64 with padding, for the handshake and for binary data in JSON.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 0x3f];
            text.push(if place > group.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_agrees_with_the_vectors_of_rfc_4648() {
        let vectors =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (bytes, text) in vectors {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
