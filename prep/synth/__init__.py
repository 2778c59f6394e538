"""What prep/synthetic.py makes: patients and tables (cases.py), their pictures (lesion.py), the folder of both."""
