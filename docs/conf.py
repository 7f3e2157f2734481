"""How Sphinx builds this folder: `make docs`."""

project = "residual"
author = "The residual authors"
copyright = "The residual authors, Apache-2.0"

extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "residual"
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#1d5c94", "color-brand-content": "#1d5c94"},
    "dark_css_variables": {"color-brand-primary": "#7db6ea", "color-brand-content": "#7db6ea"},
}
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_sphinx = False
