"""Pictures as SVG: shapes, axes, and rows with intervals."""
