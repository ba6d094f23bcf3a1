"""What runs in a notebook's page: the playground. The one room that generates and draws."""
