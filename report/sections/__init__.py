"""The chapters of the report, one file each: `section(case)` makes a Section of a Case."""
