"""Pages and pictures: of a recording, of a decoded test set, of attention."""
