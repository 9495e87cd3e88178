//! The data-plane programs: controller and speaker.

pub mod controller;
