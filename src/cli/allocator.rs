//! The binary's allocator: mimalloc, but large buffers are pages of their own, straight from the kernel.
//!
//! mimalloc keeps a large buffer for a while after it was freed, and grows one by copying. A bomb is a dozen of them, each outgrown
//! within milliseconds: four at a time kept 690 MiB resident with a budget of 256. Pages of its own make a large buffer grow by moving
//! them, without a copy, and are gone when it is freed: what is resident is what is charged.

#![allow(unsafe_code, reason = "an allocator cannot be written without")]

use std::{
    alloc::{GlobalAlloc, Layout},
    ptr::{self, NonNull},
};

use mimalloc::MiMalloc;

/// From here on a buffer has pages of its own. Whole bodies of up to 6,000 lines stay below: they come and go by the thousand, and
/// a fault for each of their pages would cost more than all else that is done for them.
const LARGE_BYTES: usize = 2 << 20;

/// See the [module](self).
#[derive(Debug)]
pub struct Allocator;

/// Has the kernel give this process pages of 4 KiB only, where it would have given some of 2 MiB.
///
/// A large page is resident as a whole, and most are held by little: hyper's two buffers of each connection, what is left of freed blocks.
/// With slow senders, the budget full, 29 to 32 % more than it was resident, without large pages 11 to 12 %; of a busy drain 16 % less is. For
/// 1,000 machines a line costs the same, for 100,000 with a reader in a task of its own each a fifth more.
pub(super) fn keep_pages_small() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "large pages stay");
    }
}

/// Both sides of every pair of calls decide by the same layout, so what one gave out the same takes back.
fn is_large(layout: Layout) -> bool {
    // Pages are aligned to themselves, and to no more.
    cfg!(target_os = "linux") && layout.size() >= LARGE_BYTES && layout.align() <= 4 << 10
}

// SAFETY: large blocks are private mappings of at least the size that was asked for, aligned to a page and held by nobody else, the rest
// is mimalloc's. `is_large` is a function of the layout, which the caller must give unchanged.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            return pages::map(layout.size()).map_or(ptr::null_mut(), NonNull::as_ptr);
        }
        // SAFETY: as the caller promises.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            // New pages are zero.
            return pages::map(layout.size()).map_or(ptr::null_mut(), NonNull::as_ptr);
        }
        // SAFETY: as the caller promises.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_large(layout) {
            // SAFETY: a mapping of this size begins there, and the caller is done with it.
            unsafe { pages::unmap(block, layout.size()) }
        } else {
            // SAFETY: as the caller promises.
            unsafe { MiMalloc.dealloc(block, layout) }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size`, rounded up to the alignment, does not overflow.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_large(layout), is_large(new)) {
            // SAFETY: as the caller promises.
            (false, false) => unsafe { MiMalloc.realloc(block, layout, size) },
            // SAFETY: a mapping of the old size begins there.
            (true, true) => unsafe { pages::resize(block, layout.size(), size) },
            // SAFETY: both blocks hold what is copied, and are different ones; the old one is freed once, and only then.
            _ => unsafe {
                let moved = self.alloc(new);
                if !moved.is_null() {
                    ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                    self.dealloc(block, layout);
                }
                moved
            },
        }
    }
}

#[cfg(target_os = "linux")]
mod pages {
    use std::ptr::{self, NonNull};

    use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap, munmap};

    /// New pages, all zero; `None` if there are none.
    pub(super) fn map(size: usize) -> Option<NonNull<u8>> {
        // SAFETY: where the kernel likes, so nobody else's memory is replaced.
        let mapped =
            unsafe { mmap_anonymous(ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
        NonNull::new(mapped.ok()?.cast())
    }

    /// # Safety
    ///
    /// A mapping of `size` bytes begins at `block`, and is used no more.
    pub(super) unsafe fn unmap(block: *mut u8, size: usize) {
        // SAFETY: as the caller promises. It fails only where there is no such mapping.
        let unmapped = unsafe { munmap(block.cast(), size) };
        debug_assert!(unmapped.is_ok(), "a mapping that was made can be taken back");
    }

    /// The pages as they are, and more or fewer of them, perhaps elsewhere; null, with nothing changed, if that cannot be.
    ///
    /// # Safety
    ///
    /// A mapping of `from` bytes begins at `block`.
    pub(super) unsafe fn resize(block: *mut u8, from: usize, to: usize) -> *mut u8 {
        // SAFETY: as the caller promises; the kernel moves it to where nothing is.
        let moved = unsafe { mremap(block.cast(), from, to, MremapFlags::MAYMOVE) };
        moved.map_or(ptr::null_mut(), <*mut _>::cast)
    }
}

/// Never called: nothing counts as large.
#[cfg(not(target_os = "linux"))]
mod pages {
    use std::ptr::{self, NonNull};

    pub(super) fn map(_: usize) -> Option<NonNull<u8>> {
        None
    }

    pub(super) unsafe fn unmap(_: *mut u8, _: usize) {}

    pub(super) unsafe fn resize(_: *mut u8, _: usize, _: usize) -> *mut u8 {
        ptr::null_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 1).unwrap()
    }

    /// # Safety
    ///
    /// `block` holds `size` bytes.
    unsafe fn is_marked(block: *const u8, size: usize) -> bool {
        // SAFETY: as the caller promises; the last byte is never the first.
        unsafe { (*block, *block.add(size - 1)) == (1, 2) }
    }

    #[test]
    fn a_block_keeps_its_bytes_as_it_grows_and_shrinks_over_the_bound() {
        let sizes =
            [1 << 10, LARGE_BYTES - 1, LARGE_BYTES, (3 * LARGE_BYTES) + 7, 64 << 20, LARGE_BYTES + 1, 900 << 10, 5];
        // SAFETY: each call has the layout of the one before.
        unsafe {
            let mut size = 2;
            let mut block = Allocator.alloc(layout(size));
            for next in sizes {
                (*block, *block.add(size - 1)) = (1, 2);
                let grown = Allocator.realloc(block, layout(size), next);
                assert!(!grown.is_null());
                let kept = size.min(next);
                assert_eq!(*grown, 1, "{size} → {next}");
                assert!(next < size || is_marked(grown, kept), "{size} → {next}");
                (block, size) = (grown, next);
            }
            Allocator.dealloc(block, layout(size));
        }
    }

    #[test]
    fn large_blocks_are_zero_where_they_must_be_and_apart() {
        // SAFETY: each block is freed once, with its layout.
        unsafe {
            let blocks = [0; 4].map(|_| Allocator.alloc_zeroed(layout(LARGE_BYTES + 1)));
            for (at, &block) in blocks.iter().enumerate() {
                let bytes = std::slice::from_raw_parts_mut(block, LARGE_BYTES + 1);
                assert!(bytes.iter().all(|&byte| byte == 0));
                bytes.fill(at as u8 + 1);
            }
            for (at, &block) in blocks.iter().enumerate() {
                let bytes = std::slice::from_raw_parts(block, LARGE_BYTES + 1);
                assert!(bytes.iter().all(|&byte| byte == at as u8 + 1));
                Allocator.dealloc(block, layout(LARGE_BYTES + 1));
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_large_block_that_was_freed_is_not_resident_any_more() {
        let size = 256 << 20;
        let resident = || -> usize {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * (4 << 10)
        };
        // SAFETY: the block is freed once, with its layout.
        unsafe {
            let before = resident();
            let block = Allocator.alloc(layout(size));
            block.write_bytes(7, size);
            let grown = Allocator.realloc(block, layout(size), 2 * size);
            let held = resident();
            Allocator.dealloc(grown, layout(2 * size));
            // What the tests beside this one hold is far less than half of it.
            let near = size / 2;
            assert!((before + size - near..before + size + near).contains(&held), "{before} {held}");
            assert!(resident() < before + near, "{before} {held} {}", resident());
        }
    }
}
