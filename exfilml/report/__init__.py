"""Facts to pages, pictures and notebook display; lower rooms know no HTML."""
