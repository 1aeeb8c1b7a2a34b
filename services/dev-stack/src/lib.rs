//! Every service of gridfaas in one process, on embedded defaults
