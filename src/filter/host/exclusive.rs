//! Cells with one user at a time.
//!
//! A worker is one thread, and Envoy enters the VM again only to allocate memory. So a cell that is already in use is
//! our bug. It must not end the worker's streams: the second user does without the value. Tests fail there, and in
//! production it is logged once.

use std::cell::{Cell, Ref, RefCell, RefMut};

thread_local! {
    static IS_TOLD: Cell<bool> = const { Cell::new(false) };
}

/// A cell that should never be in use when somebody asks for it.
pub(crate) trait Exclusive<T: ?Sized> {
    /// Its value, to be changed; `None` when it is in use.
    fn change(&self) -> Option<RefMut<'_, T>>;

    /// Its value, to be read; `None` when it is being changed.
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
