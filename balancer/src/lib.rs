//! The data-plane programs: controller and speaker.
