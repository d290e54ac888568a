//! What was read from disk and is read again only when it may have changed.
//!
//! Commands and the signer share the authority's folder. Each writes files by renaming, which changes
//! the stamp of the file and of its folder.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// The coarsest time stamps of a file system (FAT: 2 s). Two changes may have the same stamp while it is
/// younger than this, so nothing is remembered by it.
const COARSEST_STAMP: Duration = Duration::from_secs(2);

/// Everything is read again after this time. A person who mends a file in place changes no stamp of the
/// folder.
const READ_AGAIN: Duration = Duration::from_secs(60);

/// The last reading of one file or folder.
#[derive(Debug)]
pub(super) struct Remembered<T>(Mutex<Option<Reading<T>>>);

#[derive(Debug)]
struct Reading<T> {
    stamp: Stamp,
    at: Instant,
    content: Arc<T>,
}

/// Tells one state of a file or folder from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    length: u64,
    inode: u64,
}

impl Stamp {
    /// `None`: there is none, or nobody can tell.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let (length, inode) = (metadata.len(), metadata.ino());
        Some(Self { modified: metadata.modified().ok()?, length, inode })
    }

    /// Whether every later change gets another stamp.
    fn is_settled(&self, now: SystemTime) -> bool {
        now.duration_since(self.modified).is_ok_and(|age| age >= COARSEST_STAMP)
    }
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Remembered<T> {
    /// The content of `path`: what was read last if `path` has not changed since, else what `read` returns.
    pub(super) fn get<E>(
        &self,
        path: &Path,
        read: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let (now, stamp) = (SystemTime::now(), Stamp::of(path));
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reading) = &*last
            && Some(reading.stamp) == stamp
            && reading.at.elapsed() < READ_AGAIN
        {
            return Ok(reading.content.clone());
        }
        *last = None;
        let content = Arc::new(read()?);
        *last = stamp.filter(|stamp| stamp.is_settled(now)).map(|stamp| Reading {
            stamp,
            at: Instant::now(),
            content: content.clone(),
        });
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, fs::File};

    use super::*;

    /// Sets when `path` was last changed, to this long ago.
    fn age(path: &Path, age: Duration) {
        File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn an_old_folder_is_read_once_and_again_after_each_change() {
        let folder = tempfile::tempdir().unwrap();
        let (remembered, mut readings) = (Remembered::default(), 0);
        let mut read = || {
            let read = || Ok::<_, Infallible>(fs::read_dir(folder.path()).unwrap().count());
            let counted = || {
                readings += 1;
                read()
            };
            (*remembered.get(folder.path(), counted).unwrap(), readings)
        };
        age(folder.path(), Duration::from_secs(9));
        assert_eq!([read(), read(), read()], [(0, 1); 3]);
        super::super::files::write(&folder.path().join("a"), b"x").unwrap();
        // Another change could follow under the same stamp.
        assert_eq!([read(), read()], [(1, 2), (1, 3)]);
        age(folder.path(), Duration::from_secs(5));
        assert_eq!([read(), read()], [(1, 4); 2]);
        fs::remove_file(folder.path().join("a")).unwrap();
        assert_eq!(read().0, 0);
    }

    #[test]
    fn a_file_of_another_inode_or_from_the_future_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let remembered = Remembered::default();
        let read = || remembered.get(&path, || fs::read(&path)).unwrap();
        let old = SystemTime::now() - Duration::from_secs(60);
        for content in [b"one", b"two"] {
            super::super::files::write(&path, content).unwrap();
            File::open(&path).unwrap().set_modified(old).unwrap();
            assert_eq!(*read(), content);
        }
        // The clock was set back meanwhile.
        File::open(&path).unwrap().set_modified(SystemTime::now() + READ_AGAIN).unwrap();
        read();
        assert!(remembered.0.lock().unwrap().is_none());
    }
}
