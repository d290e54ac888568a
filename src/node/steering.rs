//! What new flows are steered to after a restart, in `steering.json`.

use crate::{
    app::Steering,
    identity::{NodeDir, NodeFile, StoreError},
};

/// Reads it. A damaged file is not used, and says so: the rules hold then.
pub(crate) fn load(dir: &NodeDir) -> Steering {
    let read = dir.read(NodeFile::Steering);
    match read.map(|bytes| serde_json::from_slice(&bytes)) {
        Ok(Ok(steering)) => steering,
        Err(StoreError::Missing(_)) => Steering::default(),
        Ok(Err(error)) => {
            let advice = "new flows follow the rules; steer them again with --save";
            tracing::warn!(%error, advice, "steering.json is damaged");
            Steering::default()
        }
        Err(error) => {
            tracing::warn!(%error, "steering.json cannot be read");
            Steering::default()
        }
    }
}

/// What writes it down for a command.
#[cfg(feature = "proxy")]
pub(crate) fn saver(dir: &NodeDir) -> crate::admin::Save {
    let dir = dir.clone();
    std::sync::Arc::new(move |steering: &Steering| {
        dir.write_json(NodeFile::Steering, steering).map_err(|error| error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_a_damaged_file_means_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let dir = NodeDir::at(folder.path());
        assert_eq!(load(&dir), Steering::default());
        let exit = Some("mit".parse().unwrap());
        let avoid = std::iter::once("utah".parse().unwrap()).collect();
        let steering =
            Steering { exit, hint: Some(crate::flow::Hint::Loss), avoid, ..Steering::default() };
        dir.write_json(NodeFile::Steering, &steering).unwrap();
        assert_eq!(load(&dir), steering);
        for damaged in ["{", "[]", "{\"exit\":\"A B\",\"hint\":null,\"avoid\":[]}"] {
            dir.write(NodeFile::Steering, damaged.as_bytes()).unwrap();
            assert_eq!(load(&dir), Steering::default(), "{damaged}");
        }
    }
}
