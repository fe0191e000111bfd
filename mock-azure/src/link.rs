//! One accepted connection, with handles to break it below HTTP.
//!
//! An HTTP server library answers properly or not at all. Resets, bytes that are not HTTP and headers that
//! dribble in happen underneath it, so they are done by a wrapper around the socket.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::lock::Lock;

/// The handle of one connection, shared by its socket and the requests on it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: u64,
    order: Lock<Order>,
}

/// What the socket does with the bytes that it is given to write.
#[derive(Debug, Clone, Default)]
enum Order {
    #[default]
    Pass,
    /// Drop them and fail; the peer gets a reset (RST).
    Reset,
    /// Write these bytes in their place, then close.
    Replace(Bytes),
    /// Write this many bytes one by one, then pass.
    Dribble { bytes: usize, pause: Duration },
}

impl Link {
    pub(crate) fn new(id: u64) -> Arc<Self> {
        Arc::new(Self { id, order: Lock::default() })
    }

    pub(crate) fn reset(&self) {
        self.order.with(|order| *order = Order::Reset);
    }

    pub(crate) fn replace_answer(&self, bytes: Bytes) {
        self.order.with(|order| *order = Order::Replace(bytes));
    }

    pub(crate) fn dribble(&self, bytes: usize, pause: Duration) {
        self.order.with(|order| *order = Order::Dribble { bytes, pause });
    }
}

/// The socket of a link.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TokioIo<TcpStream>,
    link: Arc<Link>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, link: Arc<Link>) -> Self {
        Self { stream: TokioIo::new(stream), link, pause: None }
    }

    fn write_replacement(
        &mut self,
        context: &mut Context<'_>,
        mut rest: Bytes,
    ) -> Poll<io::Result<usize>> {
        while rest.has_remaining() {
            match Pin::new(&mut self.stream).poll_write(context, &rest) {
                Poll::Ready(written) => rest.advance(written?),
                Poll::Pending => {
                    self.link.replace_answer(rest);
                    return Poll::Pending;
                }
            }
        }
        self.link.replace_answer(rest);
        Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
    }

    fn write_slowly(
        &mut self,
        context: &mut Context<'_>,
        buffer: &[u8],
        bytes: usize,
        pause: Duration,
    ) -> Poll<io::Result<usize>> {
        let sleep = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
        ready!(sleep.as_mut().poll(context));
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, &buffer[..1]))?;
        self.pause = None;
        if bytes > written {
            self.link.dribble(bytes - written, pause);
        } else {
            self.link.order.with(|order| *order = Order::Pass);
        }
        Poll::Ready(Ok(written))
    }
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let order = self.link.order.with(|order| order.clone());
        match order {
            Order::Dribble { bytes, pause } if !buffer.is_empty() => {
                self.write_slowly(context, buffer, bytes, pause)
            }
            Order::Pass | Order::Dribble { .. } => {
                Pin::new(&mut self.stream).poll_write(context, buffer)
            }
            Order::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Order::Replace(bytes) => self.write_replacement(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Drop for Socket {
    /// The kernel sends a reset instead of an orderly close when the linger time is zero.
    fn drop(&mut self) {
        if self.link.order.with(|order| matches!(order, Order::Reset)) {
            let _ = self.stream.inner().set_zero_linger();
        }
    }
}
