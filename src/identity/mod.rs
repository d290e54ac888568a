//! Who a node is: names, keys, certificates, invitations, and the folder that keeps them.

mod name;

pub use name::{NodeName, ParseNameError};
