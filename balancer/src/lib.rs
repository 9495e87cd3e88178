//! The data-plane programs: controller and speaker.

mod arguments;
pub mod controller;
pub mod speaker;
mod watch;
