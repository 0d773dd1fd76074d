//! Files and folders that are there whole or not at all: written beside, flushed, renamed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use firesteel_error::{Error, Kind, Result};

/// A file or folder under a name of its own, beside the place it is for; gone when it is dropped before it got there.
#[derive(Debug)]
pub(crate) struct Beside {
    path: PathBuf,
    /// Whether there is something to remove.
    there: bool,
}

impl Beside {
    /// A name that nothing in the folder of `place` has, nor will get.
    fn of(place: &Path) -> Beside {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let (process, number) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = folder_of(place).join(format!(".firesteel-{process}-{nanos}-{number}"));
        Beside { path, there: false }
    }

    /// A folder with these files, all on the disk.
    ///
    /// # Errors
    /// `Io` naming the file.
    pub(crate) fn folder(place: &Path, files: &[(String, Vec<u8>)]) -> Result<Beside> {
        let parent = folder_of(place);
        fs::create_dir_all(parent).map_err(|e| failed("create", parent, e))?;
        let mut beside = Beside::of(place);
        fs::create_dir(&beside.path).map_err(|e| failed("create", &beside.path, e))?;
        beside.there = true;
        for (name, bytes) in files {
            let path = beside.path.join(name);
            write(&path, bytes).map_err(|e| failed("write", &path, e))?;
        }
        flush_folder(&beside.path)?;
        Ok(beside)
    }

    /// Puts it in its place, where nothing is, or, for files, what is replaced.
    ///
    /// # Errors
    /// `Io` naming the place; nothing is left beside it.
    pub(crate) fn put(mut self, place: &Path) -> Result<()> {
        fs::rename(&self.path, place).map_err(|e| failed("rename", place, e))?;
        self.there = false;
        flush_folder(folder_of(place))
    }

    /// Puts a folder in the place of another, which is back in its place after an error.
    ///
    /// # Errors
    /// `Io` naming the place.
    pub(crate) fn put_instead(self, place: &Path) -> Result<()> {
        let mut old = Beside::of(place);
        fs::rename(place, &old.path).map_err(|e| failed("rename", place, e))?;
        let put = self.put(place);
        if put.is_err() && !place.exists() {
            fs::rename(&old.path, place).map_err(|e| failed("rename back", place, e))?;
        } else {
            old.there = true;
        }
        put
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.there {
            return;
        }
        let removed = match self.path.is_dir() && !self.path.is_symlink() {
            true => fs::remove_dir_all(&self.path),
            false => fs::remove_file(&self.path),
        };
        if let Err(e) = removed {
            tracing::warn!(path = %self.path.display(), error = %e, "a temporary file is left");
        }
    }
}

/// Writes a file in place of what is there; a reader finds the old one or the new one, whole, also after a crash.
///
/// # Errors
/// `Io` naming the file, which is then as it was.
pub fn write_whole(place: &Path, bytes: &[u8]) -> Result<()> {
    let mut beside = Beside::of(place);
    beside.there = true;
    write(&beside.path, bytes).map_err(|e| {
        beside.there = beside.path.exists();
        failed("write", place, e)
    })?;
    beside.put(place)
}

/// A new file, on the disk when this returns.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// What was renamed within the folder stays renamed after a crash.
fn flush_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|f| f.sync_all()).map_err(|e| failed("flush", folder, e))?;
    }
    Ok(())
}

fn folder_of(place: &Path) -> &Path {
    place.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(crate) fn failed(doing: &str, path: &Path, e: io::Error) -> Error {
    Error::new(Kind::Io, format!("cannot {doing} {}", path.display())).with_source(e)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(name).collect();
        names.sort();
        names
    }

    fn one_file(text: &str) -> Vec<(String, Vec<u8>)> {
        vec![("file".into(), text.as_bytes().to_vec())]
    }

    #[test]
    fn a_folder_comes_whole_and_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("new/model");
        Beside::folder(&place, &one_file("one")).unwrap().put(&place).unwrap();
        Beside::folder(&place, &one_file("two")).unwrap().put_instead(&place).unwrap();
        assert_eq!(fs::read_to_string(place.join("file")).unwrap(), "two");
        assert_eq!(names(place.parent().unwrap()), ["model"]);
    }

    #[test]
    fn what_was_interrupted_leaves_nothing_beside() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("model");
        drop(Beside::folder(&place, &one_file("one")).unwrap());
        assert!(names(root.path()).is_empty());
        // No file can have this name.
        let bad = [one_file("one"), vec![("no/where".into(), Vec::new())]].concat();
        assert!(Beside::folder(&place, &bad).unwrap_err().to_string().contains("no/where"));
        assert!(names(root.path()).is_empty());
        // A folder cannot take the place of a file.
        fs::write(&place, "in the way").unwrap();
        let e = Beside::folder(&place, &one_file("one")).unwrap().put(&place).unwrap_err();
        assert!(e.to_string().starts_with(&format!("cannot rename {}", place.display())), "{e}");
        assert_eq!(names(root.path()), ["model"]);
    }

    #[test]
    fn the_old_folder_is_back_when_the_new_one_cannot_take_its_place() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("model");
        Beside::folder(&place, &one_file("one")).unwrap().put(&place).unwrap();
        let new = Beside::folder(&place, &one_file("two")).unwrap();
        fs::remove_dir_all(&new.path).unwrap();
        new.put_instead(&place).unwrap_err();
        assert_eq!(fs::read_to_string(place.join("file")).unwrap(), "one");
        assert_eq!(names(root.path()), ["model"]);
    }

    /// A second name of the old file shows whether it was written over.
    #[test]
    fn a_file_is_never_written_in_place() {
        let root = tempfile::tempdir().unwrap();
        for name in ["c.safetensors", "c.beside", "c"] {
            let (place, second) = (root.path().join(name), root.path().join("second"));
            write_whole(&place, b"old").unwrap();
            fs::hard_link(&place, &second).unwrap();
            write_whole(&place, b"new").unwrap();
            assert_eq!(
                (fs::read(&place).unwrap(), fs::read(&second).unwrap()),
                (b"new".into(), b"old".into())
            );
            fs::remove_file(&second).unwrap();
        }
        assert_eq!(names(root.path()), ["c", "c.beside", "c.safetensors"]);
        let e = write_whole(&root.path().join("nowhere/c"), b"x").unwrap_err().to_string();
        assert!(e.starts_with("cannot write") && e.contains("nowhere/c"), "{e}");
    }
}
