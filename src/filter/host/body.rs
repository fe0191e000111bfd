//! Reading and editing a request body in slices. The memory of the VM never shrinks, so it must not grow with the
//! body.
//!
//! # Editing in the middle
//!
//! The host can only replace the front of a buffer and append to its end. An edit near the front replaces the front.
//! For a later edit, the whole buffer is moved once, slice by slice, from its front to its end, and edited on the
//! way.

use super::{self as host, Buffer, Refused};
use crate::openai::request::splice::Splices;

/// How much of a body crosses into the VM at a time.
const SLICE: usize = 64 * 1024;

/// Passes the request body's bytes from `start` to `end` to `visit`, slice by slice.
pub(crate) fn read(start: usize, end: usize, mut visit: impl FnMut(&[u8])) -> Result<(), Refused> {
    let mut at = start;
    while at < end {
        let slice = host::buffer(Buffer::RequestBody, at, SLICE.min(end.saturating_sub(at)))?;
        if slice.is_empty() {
            break;
        }
        visit(&slice);
        at = at.saturating_add(slice.len());
    }
    Ok(())
}

/// Applies `splices` to the part of the request body that the current callback holds: `size` bytes, which begin at
/// `offset` of the body.
pub(crate) fn edit(splices: &Splices, offset: u64, size: usize) -> Result<(), Refused> {
    let reach = splices.last_byte().saturating_sub(offset);
    let front = usize::try_from(reach).unwrap_or(usize::MAX).max(1).min(size);
    if front <= SLICE {
        let bytes = host::buffer(Buffer::RequestBody, 0, front)?;
        return match splices.apply(offset, &bytes) {
            Some(edited) => host::replace_front(Buffer::RequestBody, front, &edited),
            None => Ok(()),
        };
    }
    turn_around(splices, offset, size)
}

fn turn_around(splices: &Splices, offset: u64, size: usize) -> Result<(), Refused> {
    let mut left = size;
    let mut at = offset;
    while left > 0 {
        let slice = host::buffer(Buffer::RequestBody, 0, SLICE.min(left))?;
        if slice.is_empty() {
            break;
        }
        host::drain_front(Buffer::RequestBody, slice.len())?;
        match splices.apply(at, &slice) {
            Some(edited) => host::append(Buffer::RequestBody, &edited)?,
            None => host::append(Buffer::RequestBody, &slice)?,
        }
        left = left.saturating_sub(slice.len());
        at = at.saturating_add(u64::try_from(slice.len()).unwrap_or(u64::MAX));
    }
    Ok(())
}
