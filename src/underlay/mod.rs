//! underlay
