"""The packaged config files; a folder of data that travels in the wheel as `tlmtl.conf`."""
