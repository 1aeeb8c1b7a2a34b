//! Static helper of a container: the launcher outside and the task runner inside
