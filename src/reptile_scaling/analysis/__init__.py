"""What a run says, as numbers and sentences: its law, its levels, how it stands, what stays hard. No drawing."""
