/* A page opened from a disk may read no other file: a search then shows titles only, instead of failing at excerpts. */
if (location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
