//! A Gridcoin node for development: answers as the real daemon does, and misbehaves on request
