// Before anything is painted: the theme that this browser was last given; dark where none was.
document.documentElement.dataset.theme = localStorage.getItem("theme") === "light" ? "light" : "dark";
