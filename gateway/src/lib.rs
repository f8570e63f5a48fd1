pub mod copy;
pub mod keys;
pub mod path;
pub mod read;
pub mod write;
