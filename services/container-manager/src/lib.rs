//! Runs the task files of a bucket in metered containers
