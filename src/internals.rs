//! What this package's own program, tests and measurements use beside the interface. It is no part of the
//! interface: anything in it changes in any release.
//!
//! Modules of the crate are private, and keep their paths, which are the targets of their log lines. A module
//! that is not listed here is used by the crate alone.

macro_rules! open {
    ($($(#[$feature:meta])? $module:ident,)+) => {
        $(
            $(#[$feature])?
            pub mod $module {
                pub use crate::$module::*;
            }
        )+
    };
}

open! {
    app,
    carrier,
    #[cfg(feature = "cli")]
    cli,
    config,
    #[cfg(feature = "emulator")]
    emulator,
    entry,
    events,
    flow,
    identity,
    #[cfg(feature = "emulator")]
    lab,
    lane,
    link,
    mesh,
    overlay,
    transport,
    underlay,
    wire,
}
