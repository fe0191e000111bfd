//! Cells that one caller has at a time.
//!
//! A worker is one thread, and Envoy enters the VM again only to allocate memory. So a cell that is in use already
//! is a mistake of ours. It must not end the worker's streams: whoever meets one does without what is in it. Tests
//! stop there, and in production the log has it once.

use std::cell::{Cell, Ref, RefCell, RefMut};

thread_local! {
    static IS_TOLD: Cell<bool> = const { Cell::new(false) };
}

/// A cell that should never be in use when it is asked for.
pub(crate) trait Exclusive<T: ?Sized> {
    /// What is in it, to be changed; `None` when it is in use.
    fn change(&self) -> Option<RefMut<'_, T>>;

    /// What is in it, to be looked at; `None` when it is being changed.
    fn view(&self) -> Option<Ref<'_, T>>;
}

impl<T: ?Sized> Exclusive<T> for RefCell<T> {
    fn change(&self) -> Option<RefMut<'_, T>> {
        let found = self.try_borrow_mut().ok();
        if found.is_none() {
            tell();
        }
        found
    }

    fn view(&self) -> Option<Ref<'_, T>> {
        let found = self.try_borrow().ok();
        if found.is_none() {
            tell();
        }
        found
    }
}

#[cold]
fn tell() {
    let is_told = IS_TOLD.replace(true);
    debug_assert!(is_told, "a cell was asked for while it was in use");
    if !is_told {
        log::error!("a cell was asked for while it was in use: please report this");
    }
}
