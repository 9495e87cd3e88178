//! The data-plane programs, controller and speaker, and the kubectl plugin that shows what they do.

mod arguments;
pub mod controller;
mod inspect;
pub mod plugin;
pub mod speaker;
mod watch;
